"""STAR's distillation loss (constrained knowledge distillation, arXiv 2602.03022) on stored top-k.

Forward KL over the teacher's top-k, since reverse KL on a cut distribution collapses, plus a
penalty on the probability the student gives to its own favourites that are none of the teacher's:
forward KL alone hardly sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from supertiny.packing import IGNORED

DROPPED = -1  # teacher id that the student's vocabulary has not


@dataclass(frozen=True)
class Weights:
    """Factors of the three terms; STAR has tail 10."""

    forward_kl: float
    tail: float
    cross_entropy: float


@dataclass(frozen=True)
class Loss:
    """The sum to train on, and its terms without their factors, detached, for the log."""

    total: torch.Tensor
    forward_kl: torch.Tensor
    tail: torch.Tensor
    cross_entropy: torch.Tensor


def map_teacher(
    ids: torch.Tensor, log_probs: torch.Tensor, new_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's top-k in the student's vocabulary.

    Args:
        ids: old ids, shape (tokens, k).
        log_probs: shape (tokens, k).
        new_ids: new id of each old one or -1, shape (old vocabulary,); `prune.vocabulary.id_map`.

    Returns:
        New ids, `DROPPED` where there is none, and log-probabilities, -inf there; both (tokens, k).
    """
    mapped = new_ids[ids.long()]
    return mapped, log_probs.masked_fill(mapped == DROPPED, -torch.inf)


def ckd_loss(
    logits: torch.Tensor,
    teacher_ids: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    labels: torch.Tensor,
    weights: Weights,
    positions: float | torch.Tensor | None = None,
) -> Loss:
    """Top-k forward KL, tail penalty and cross-entropy of the answer.

    With p the teacher's probabilities on what is left of its top-k, m their sum and q the student's
    probabilities over its whole vocabulary, all at one position:

    - forward KL: ``sum p * (log(p / m) - log q)``, that is m times KL(p / m || q). What was lost
      with the cut to k and to the kept vocabulary is not handed to the other tokens, it makes the
      position count less; the gradient is that of ``-sum p * log q``, the least value 0.
    - tail: sum of q over the student's own top-k tokens that are not in the teacher's; nothing where
      no token of the teacher's is known.
    - cross-entropy: ``-log q[label]``.

    Each term is summed over positions and divided by ``positions``, labels or not, so that the
    value does not depend on how rows are spread over batches and processes.

    Args:
        logits: of the student, shape (tokens, vocabulary).
        teacher_ids: in the student's vocabulary, shape (tokens, k); `DROPPED` ones count nowhere.
        teacher_log_probs: shape (tokens, k).
        labels: shape (tokens,); `IGNORED` where there is no answer to learn.
        positions: tokens of the whole training step; those given here if None.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    log_q = exact.log_softmax(-1)
    share = 1 / (len(logits) if positions is None else positions)
    # A term of weight 0 is for the log alone: going back through it costs as much as any other.
    forward_kl = _forward_kl(_of(log_q, weights.forward_kl), teacher_ids, teacher_log_probs) * share
    tail = _tail(_of(log_q, weights.tail), teacher_ids) * share
    cross_entropy = share * functional.nll_loss(
        _of(log_q, weights.cross_entropy), labels, ignore_index=IGNORED, reduction="sum"
    )
    total = weights.forward_kl * forward_kl + weights.tail * tail
    total = total + weights.cross_entropy * cross_entropy
    return Loss(total, forward_kl.detach(), tail.detach(), cross_entropy.detach())


def _of(log_q: torch.Tensor, weight: float) -> torch.Tensor:
    return log_q if weight else log_q.detach()


def _forward_kl(log_q: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    log_p = log_probs.to(log_q.dtype).masked_fill(ids == DROPPED, -torch.inf)
    p = log_p.exp()
    # A position that lost all its tokens has p = 0 everywhere and adds nothing.
    log_ratio = log_p - log_p.logsumexp(-1, keepdim=True) - log_q.gather(-1, ids.clamp(min=0))
    return torch.where(p > 0, p * log_ratio, 0).sum()


def _tail(log_q: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    own = log_q.topk(min(ids.shape[1], log_q.shape[1]), dim=-1)
    shared = (own.indices.unsqueeze(-1) == ids.unsqueeze(-2)).any(-1)
    unknown = (ids == DROPPED).all(-1, keepdim=True)
    return own.values.exp().masked_fill(shared | unknown, 0).sum()
