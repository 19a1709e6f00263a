"""Attention over a prefix that all rows of a batch share, and that is neither copied nor recomputed.

Each row attends to the one shared prefix and to its own tokens; the two partial softmaxes are merged
(the idea of Hydragen, arXiv 2402.05099). Works in bf16, with sums and merging in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "supertiny_teacher_prefix"
_BLOCK = 512  # rows of scores held at once
Prefix = list[tuple[torch.Tensor, torch.Tensor]]  # per layer: keys, values, (kv heads, P, width)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    teacher_prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `transformers` calls it.

    Shapes: query (batch, heads, new, width), key and value (batch, kv heads, own, width), mask
    (batch, 1, new, own) added to the scores, result (batch, new, heads, width).
    """
    if teacher_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    assert attention_mask is not None
    keys, values = teacher_prefix[module.layer_idx]  # type: ignore[index]
    batch, heads, new, width = query.shape
    kv_heads = key.shape[1]
    rows = heads // kv_heads * new
    grouped = query.reshape(batch, kv_heads, rows, width) * scaling
    own = (grouped @ key.transpose(2, 3)).float()
    own += attention_mask.repeat(1, 1, heads // kv_heads, 1)
    # All rows of the batch meet the prefix in one product per head: it is read once.
    merged = grouped.transpose(0, 1).reshape(kv_heads, batch * rows, width)
    far, far_total, far_top = (
        part.view(kv_heads, batch, rows, -1).transpose(0, 1)
        for part in _attend(merged, keys, values)
    )
    top = torch.maximum(own.amax(-1, keepdim=True), far_top)
    own, far_weight = (own - top).exp_(), (far_top - top).exp_()
    total = own.sum(-1, keepdim=True) + far_total * far_weight
    result = ((own.to(value.dtype) @ value).float() + far * far_weight) / total
    return result.to(query.dtype).view(batch, heads, new, width).transpose(1, 2), None


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax attention before its division: weighted values, sum of weights, highest score."""
    parts = []
    for block in query.split(_BLOCK, dim=1):
        scores = (block @ keys.transpose(1, 2)).float()
        top = scores.amax(-1, keepdim=True)
        weights = scores.sub_(top).exp_()
        weighted = (weights.to(values.dtype) @ values).float()
        parts.append((weighted, weights.sum(-1, keepdim=True), top))
    weighted, total, top = (torch.cat(found, dim=1) for found in zip(*parts, strict=True))
    return weighted, total, top


AttentionInterface.register(NAME, attention)
