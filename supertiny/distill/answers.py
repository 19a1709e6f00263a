"""What capturing a teacher and teaching a student have in common: logits before each answer token."""

from __future__ import annotations

from typing import Any

import torch

from supertiny.packing import IGNORED

OWN = "#own"  # after an input's id: the teacher's own answer to it, which is not the gold one


def answer_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits before each answer token of a packed batch, and these tokens, in order.

    The head runs on answers only. Shapes: (answer tokens, vocabulary) and (answer tokens,), both on
    the model's device.
    """
    batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
    targets = batch.pop("labels")[0, 1:]
    kept = (targets != IGNORED).nonzero().flatten()
    return model(**batch, logits_to_keep=kept, use_cache=False).logits[0], targets[kept]
