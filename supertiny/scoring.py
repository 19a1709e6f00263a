"""PyTorch's logits along given answers: what exported and rounded models are held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from supertiny.encoding import Encoded

if TYPE_CHECKING:
    import torch

_ROWS_AT_ONCE = 16


def load_fp32(source: Path) -> Any:
    """The causal LM in a folder, fp32 on the CPU, as `transformers` runs it without code of ours."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    ).eval()


def logits_along(model: Any, rows: Sequence[Encoded], label: str = "") -> list[torch.Tensor]:
    """The logits before each token of each row's answer: shape (answer tokens, vocabulary) a row.

    Args:
        label: of the progress bar; none is shown without it.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    found = []
    steps = range(0, len(rows), _ROWS_AT_ONCE)
    with torch.inference_mode():
        for at in tqdm(steps, unit="batch", desc=label, mininterval=1.0, disable=not label):
            part = rows[at : at + _ROWS_AT_ONCE]
            # No mask: padding comes after a row's tokens, and causality hides it from them.
            ids = [torch.tensor(prompt + answer[:-1]) for prompt, answer in part]
            states = model.base_model(pad_sequence(ids, batch_first=True)).last_hidden_state
            for row, (prompt, answer) in zip(states, part, strict=True):
                start = len(prompt) - 1
                found.append(model.get_output_embeddings()(row[start : start + len(answer)]))
    return found
