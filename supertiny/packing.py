"""Rows packed into one sequence, each of which sees only itself.

Nothing is padded but inside attention, so batches need not be sorted by length: sorted ones hold
one kind of command each, and the loss jumps from one to the next.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

IGNORED = -100  # label of tokens that carry no loss
ATTENTION = "supertiny_packed_rows"  # name of the attention below for `attn_implementation`
SHORT = 128  # tokens of the longest row up to which rows are one batch, filled up
LONG = 1024  # tokens of a row from which its table of weights is too large to be kept


class PackedCollator:
    """Joins the rows of a batch into one sequence, with positions that start anew at each row."""

    def __init__(self, multiple: int, pad_id: int) -> None:
        self.multiple = multiple
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """The sequence, and where its rows are.

        Returns:
            input_ids, labels, position_ids: shape (1, tokens).
            packed_tokens: shape (rows, longest), the place in the sequence of each row's tokens;
                after its last, any place.
            packed_slots: shape (tokens,), the place of each token in packed_tokens, flattened.
            packed_lengths: shape (rows,), the tokens of each row; what fills up the sequence is one.
        """
        ids = [row["input_ids"] for row in rows]
        labels = [label for row in rows for label in row["labels"]]
        # Few different shapes keep the allocator from holding a block for every one.
        spare = -len(labels) % self.multiple
        if spare:
            ids.append([self.pad_id] * spare)
        longest = max(map(len, ids))
        starts = [sum(map(len, ids[:row])) for row in range(len(ids))]
        tokens = [
            [start + at if at < len(row) else 0 for at in range(longest)]
            for start, row in zip(starts, ids, strict=True)
        ]
        return {
            "input_ids": torch.tensor([[token for row in ids for token in row]]),
            "labels": torch.tensor([labels + [IGNORED] * spare]),
            "position_ids": torch.tensor([[at for row in ids for at in range(len(row))]]),
            "packed_tokens": torch.tensor(tokens),
            "packed_slots": torch.tensor(
                [number * longest + at for number, row in enumerate(ids) for at in range(len(row))]
            ),
            "packed_lengths": torch.tensor([len(row) for row in ids]),
        }


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    *,
    packed_tokens: torch.Tensor,
    packed_slots: torch.Tensor,
    packed_lengths: torch.Tensor,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row: short rows instead of one long masked sequence.

    Shapes: query (1, heads, tokens, width), key and value (1, kv heads, tokens, width), result
    (1, tokens, heads, width). A row's padding comes after its tokens, so causality hides it.
    """
    rows, longest = packed_tokens.shape
    # On a CPU the fused kernel's backward pass (bf16) takes 20 times as long as plain products at
    # 34 tokens and twice as long at 500, and rows of such lengths are not worth filling up.
    if longest > SHORT and query.device.type == "cpu":
        lengths = packed_lengths.tolist()
        queries, keys, values = (states.split(lengths, 2) for states in (query, key, value))
        parts = []
        for length, q, k, v in zip(lengths, queries, keys, values, strict=True):
            attend = _plain_attention if length <= LONG else _fused_attention
            parts.append(attend(q, k, v, scaling, dropout))
        return torch.cat(parts, 2).transpose(1, 2), None
    heads, width = query.shape[1], query.shape[3]

    def unpacked(states: torch.Tensor) -> torch.Tensor:
        flat = states[0].transpose(0, 1).flatten(1).index_select(0, packed_tokens.flatten())
        return flat.view(rows, longest, -1, width).transpose(1, 2)

    attend = _plain_attention if longest <= SHORT else _fused_attention
    batch = attend(unpacked(query), unpacked(key), unpacked(value), scaling, dropout)
    flat = batch.transpose(1, 2).reshape(rows * longest, -1).index_select(0, packed_slots)
    return flat.view(1, len(packed_slots), heads, width), None


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    """Causal attention by plain products; shapes as of `_fused_attention`."""
    rows, heads, longest, width = query.shape
    # The heads that share a key are one longer list of queries to it.
    grouped = query.reshape(rows, key.shape[1], -1, width) * scaling
    scores = (grouped @ key.transpose(2, 3)).view(rows, heads, longest, longest)
    later = torch.ones(longest, longest, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout)
    return (weights.view(*grouped.shape[:3], longest) @ value).view(query.shape)


def _fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    """Shapes: query and result (rows, heads, longest, width), key and value (rows, kv heads, ...)."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
    )


AttentionInterface.register(ATTENTION, _attention)


def answer_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits before each answer token of a packed batch, and these tokens, in order.

    The head runs on answers only. TRL scores every position outside CUDA and recomputes the logits
    in the backward pass; with a vocabulary as wide as this student's that is a third of all work on
    a CPU. Shapes: (answer tokens, vocabulary) and (answer tokens,), both on the model's device.
    """
    batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
    targets = batch.pop("labels")[0, 1:]
    kept = (targets != IGNORED).nonzero().flatten()
    return model(**batch, logits_to_keep=kept, use_cache=False).logits[0], targets[kept]
