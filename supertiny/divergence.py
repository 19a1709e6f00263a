"""How far a quantized model's next-token distributions are from the PyTorch weights'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from supertiny.calls import call_from_json
from supertiny.conversation import question
from supertiny.runtime import OnnxStudent
from supertiny.scoring import load_fp32, logits_along
from supertiny.task import Task


def divergence(
    source: Path, folder: Path, rows: Sequence[Mapping[str, Any]], task: Task
) -> dict[str, float]:
    """Teacher-forced along the gold answers of ``rows``.

    Returns:
        ``rows``, ``tokens``; ``kl``, the mean over answer tokens of the Kullback-Leibler divergence
        of the ONNX model's distribution from PyTorch's, in nats; ``kl_p99``, its 99th percentile;
        ``same_first_choice``, the share of tokens on which both like the same one best.
    """
    student = OnnxStudent(folder)
    pairs = [(student.encode(question(row)), _answer(student, row, task)) for row in rows]
    wanted = logits_along(load_fp32(source), pairs, "divergence, torch")
    found: list[np.ndarray] = []
    same: list[np.ndarray] = []
    progress = tqdm(pairs, unit="row", desc="divergence, onnx", mininterval=1.0)
    for (prompt, answer), along in zip(progress, wanted, strict=True):
        expected, logits = along.numpy(), student.logits(prompt, answer)
        found.append(kl(expected, logits))
        same.append(expected.argmax(-1) == logits.argmax(-1))
    values = np.concatenate(found)
    return {
        "rows": len(rows),
        "tokens": len(values),
        "kl": float(f"{values.mean():.4g}"),
        "kl_p99": float(f"{np.quantile(values, 0.99):.4g}"),
        "same_first_choice": round(float(np.concatenate(same).mean()), 6),
    }


def kl(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL divergence of each row's softmax: logits of shape (tokens, vocabulary) to (tokens,)."""
    p, q = _log_softmax(wanted), _log_softmax(found)
    return (np.exp(p) * (p - q)).sum(-1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _answer(student: OnnxStudent, row: Mapping[str, Any], task: Task) -> list[int]:
    text = task.of(row).render_call(call_from_json(row["call"]))
    ids = student.tokenizer.encode(text, add_special_tokens=False).ids
    return [*ids, min(student.end_ids)]
