"""Which parts of a model lose most when they alone are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from supertiny.encoding import Encoded
from supertiny.rounding import round_to_nearest, whole_blocks
from supertiny.scoring import logits_along

PARTS = {"attention": "self_attn", "feed_forward": "mlp"}  # name here, name of the layer's module


class Loss(NamedTuple):
    """``kl``: mean over answer tokens of the KL divergence from the unrounded model, in nats."""

    layer: int
    part: str
    kl: float


def sensitivity(
    model: Any, rows: Sequence[Encoded], bits: int, block_size: int, symmetric: bool
) -> list[Loss]:
    """Round each layer's attention or feed-forward to nearest, alone, along the rows' gold answers.

    Returns:
        One entry a part, in the order of the layers.
    """
    layers = model.model.layers
    found = []
    with torch.inference_mode():
        wanted = _log_probabilities(model, rows)
        places = [(at, part) for at in range(len(layers)) for part in PARTS]
        for at, part in tqdm(places, unit="part", desc="sensitivity", mininterval=1.0):
            module = getattr(layers[at], PARTS[part])
            weights = [m.weight for m in module.modules() if isinstance(m, torch.nn.Linear)]
            kept = [weight.clone() for weight in weights]
            for weight in weights:
                size = whole_blocks(weight.shape[1], block_size) if bits == 8 else block_size
                rounded = round_to_nearest(weight.numpy(), bits, size, symmetric)
                weight.copy_(torch.from_numpy(rounded.dequantized()))
            found.append(Loss(at, part, _kl(wanted, _log_probabilities(model, rows))))
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)
    return found


def most_sensitive(losses: Sequence[Loss], count: int) -> set[tuple[int, str]]:
    """Layer and part of the ``count`` highest losses; ties go to the earlier layer."""
    ranked = sorted(losses, key=lambda loss: (-loss.kl, loss.layer, loss.part))
    return {(loss.layer, loss.part) for loss in ranked[:count]}


def _log_probabilities(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    """Of all rows' answer tokens, one after another: shape (answer tokens, vocabulary)."""
    return torch.cat(logits_along(model, rows)).log_softmax(-1)


def _kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float(f"{float((p.exp() * (p - q)).sum()) / len(p):.4g}")
