"""The inputs a student is undecided on: neither always right nor always wrong.

Only they move it in reinforcement learning. Few are found by sampling answers to rows at random, so
rows are ranked first by how likely the student thinks gold: one forward pass without any sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from supertiny.packing import IGNORED, PackedCollator
from supertiny.rewards import teaches
from supertiny.rollouts import Group
from supertiny.sft import answer_losses, encode_row
from supertiny.task import Task

_ROWS_AT_ONCE = 64


def least_likely(
    model: PreTrainedModel, rows: Sequence[dict[str, Any]], task: Task, tokenizer: Any, count: int
) -> list[dict[str, Any]]:
    """The ``count`` rows whose gold answer the model thinks least likely, that one first.

    Args:
        model: with the attention of `supertiny.packing`.
    """
    if count >= len(rows):
        return list(rows)
    losses = gold_losses(model, rows, task, tokenizer)
    ranked = sorted(range(len(rows)), key=lambda index: (-losses[index], index))
    return [rows[index] for index in ranked[:count]]


@torch.inference_mode()
def gold_losses(
    model: PreTrainedModel, rows: Sequence[dict[str, Any]], task: Task, tokenizer: Any
) -> list[float]:
    """Cross-entropy of each row's whole gold answer in nats: exp(-loss) is its probability."""
    pack = PackedCollator(1, tokenizer.pad_token_id)
    encoded = [encode_row(row, task, tokenizer) for row in rows]
    losses: list[float] = []
    for at in tqdm(range(0, len(encoded), _ROWS_AT_ONCE), unit="batch", disable=None, leave=False):
        batch = encoded[at : at + _ROWS_AT_ONCE]
        lengths = [sum(label != IGNORED for label in row["labels"]) for row in batch]
        tokens = answer_losses(model, pack(batch))
        losses += [answer.sum().item() for answer in tokens.split(lengths)]
    return losses


def unsettled(groups: Sequence[Group]) -> list[Group]:
    """The groups worth training on (`supertiny.rewards.teaches`), by id of their rows."""
    kept = [group for group in groups if teaches(group.rewards)]
    return sorted(kept, key=lambda group: group.row["id"])
