"""The distillation loss against a dense reference, its gradient, and what is lost with the cuts."""

import pytest
import torch

from supertiny.distill.loss import DROPPED, IGNORED, Weights, ckd_loss, map_teacher

TOKENS, OLD, NEW, K = 7, 40, 24, 5
ONE = Weights(forward_kl=1.0, tail=1.0, cross_entropy=1.0)


def case(seed=0):
    """Student logits, the teacher's top-k in its own ids, a map that drops tokens, labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(TOKENS, NEW, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(TOKENS, OLD, generator=generator, dtype=torch.float64)
    new_ids = torch.full((OLD,), DROPPED)
    new_ids[torch.randperm(OLD, generator=generator)[:NEW].sort().values] = torch.arange(NEW)
    teacher[0, new_ids == DROPPED] += 100  # all of the first position's top-k drops out
    values, ids = teacher.log_softmax(-1).topk(K, dim=-1)
    labels = torch.randint(0, NEW, (TOKENS,), generator=generator)
    labels[2] = labels[5] = IGNORED
    return logits.requires_grad_(), *map_teacher(ids, values, new_ids), labels


def reference(logits, ids, log_probs, labels):
    """The three terms, written out over dense distributions, one position at a time."""
    terms = torch.zeros(3, dtype=torch.float64)
    for row, at, values, label in zip(logits, ids, log_probs, labels, strict=True):
        q = torch.exp(row) / torch.exp(row).sum()
        p = torch.zeros(NEW, dtype=torch.float64)
        for token, value in zip(at.tolist(), values, strict=True):
            if token != DROPPED:
                p[token] = torch.exp(value)
        mass = p.sum()
        for token in range(NEW):
            if p[token] > 0:
                terms[0] += p[token] * torch.log(p[token] / mass / q[token])
        favourites = q.argsort(descending=True)[:K].tolist()
        if mass > 0:
            terms[1] += sum(q[token] for token in favourites if token not in at.tolist())
        if label != IGNORED:
            terms[2] -= torch.log(q[label])
    return terms / TOKENS


@pytest.mark.parametrize("seed", range(5))
def test_every_term_equals_the_dense_reference(seed):
    found = ckd_loss(*case(seed), Weights(0.5, 10.0, 0.25))
    wanted = reference(*case(seed)).detach()
    terms = torch.stack([found.forward_kl, found.tail, found.cross_entropy])
    torch.testing.assert_close(terms, wanted, rtol=0, atol=1e-12)
    assert (wanted > 1e-3).all(), "a term that is never there proves nothing"
    total = 0.5 * wanted[0] + 10 * wanted[1] + 0.25 * wanted[2]
    torch.testing.assert_close(found.total.detach(), total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", [ONE, Weights(1, 0, 0), Weights(0, 1, 0), Weights(0, 0, 1)])
def test_the_gradient_is_that_of_the_loss(weights):
    logits, *rest = case()
    assert torch.autograd.gradcheck(lambda x: ckd_loss(x, *rest, weights).total, logits)
    (found,) = torch.autograd.grad(ckd_loss(logits, *rest, weights).total, logits)
    factors = torch.tensor([weights.forward_kl, weights.tail, weights.cross_entropy]).double()
    (wanted,) = torch.autograd.grad((reference(logits, *rest) * factors).sum(), logits)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_position_without_any_teacher_token_teaches_by_its_label_only():
    logits, ids, log_probs, labels = case()
    assert (ids[0] == DROPPED).all()
    (gradient,) = torch.autograd.grad(
        ckd_loss(logits, ids, log_probs, labels, Weights(1, 10, 0)).total, logits
    )
    assert gradient.isfinite().all() and (gradient[0] == 0).all() and gradient[1].abs().max() > 0


def test_a_student_that_agrees_has_no_forward_kl_and_no_gradient():
    """At q = p / m: what the cuts lost makes the value no higher and pulls at nothing."""
    _, ids, log_probs, labels = case()
    logits = torch.full((TOKENS, NEW), -1e4, dtype=torch.float64)
    for row in range(1, TOKENS):
        for token, value in zip(ids[row].tolist(), log_probs[row], strict=True):
            if token != DROPPED:
                logits[row, token] = value
    logits.requires_grad_()
    loss = ckd_loss(logits, ids, log_probs, labels, Weights(1, 0, 0))
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert loss.forward_kl.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_positions_of_the_whole_step_make_batches_add_up():
    logits, ids, log_probs, labels = case()
    whole = ckd_loss(logits, ids, log_probs, labels, ONE).total
    parts = [
        ckd_loss(logits[s], ids[s], log_probs[s], labels[s], ONE, positions=TOKENS).total
        for s in (slice(0, 2), slice(2, 7))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-12)


def test_half_precision_logits_are_scored_in_full_precision():
    logits, *rest = case()
    found = ckd_loss(logits.to(torch.bfloat16), *rest, ONE)
    wanted = ckd_loss(logits.to(torch.bfloat16).double(), *rest, ONE)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(wanted.total.item(), rel=1e-5)


def test_a_vocabulary_smaller_than_k_is_all_the_students_own():
    logits, ids, log_probs, labels = case()
    wide = torch.cat([ids, torch.full((TOKENS, 40), DROPPED)], dim=1)
    more = torch.cat([log_probs, torch.full((TOKENS, 40), -torch.inf)], dim=1)
    q = logits.softmax(-1)
    known = [r for r in range(TOKENS) if (ids[r] != DROPPED).any()]
    outside = sum(q[r, t] for r in known for t in range(NEW) if t not in ids[r].tolist())
    found = ckd_loss(logits, wide, more, labels, ONE).tail
    assert found.item() == pytest.approx(outside.item() / TOKENS, abs=1e-12)
