"""The teacher's top-k log-probabilities in one compact file that says how they were captured.

A safetensors file: ids in 16 bits (32 if the vocabulary has more than 65,536 tokens),
log-probabilities in 16, the answer's tokens, where each row begins, and in the header the capture
configuration. With k = 64 a token takes 258 bytes, or 388.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from supertiny.errors import UserError
from supertiny.io import sha256_file
from supertiny.task import Task

_HEADER = "capture"  # one key: safetensors writes several in no fixed order
_PROBE = "Turn on 2 Lamps, <|x|>"
OWN = "#own"  # after an input's id: the teacher's own answer to it, which is not the gold one


@dataclass(frozen=True)
class Capture:
    """What log-probabilities depend on; a training run with another one must not use them.

    model_sha256 is of the weights, tokenizer_sha256 of tokenizer.json, prompt_sha256 of the texts
    around query and answer; vocabulary is the number of tokens the softmax was over.
    """

    model_sha256: str
    tokenizer_sha256: str
    prompt_form: str
    prompt_sha256: str
    vocabulary: int
    k: int


@dataclass(frozen=True)
class Row:
    """One answer: the id of its input, its tokens, and the teacher's top-k before each of them.

    Shapes: tokens (answer,), ids and log_probs (answer, k), most probable first.
    """

    id: str
    tokens: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray


def capture_of(folder: Path, tokenizer: PreTrainedTokenizerBase, task: Task, k: int) -> Capture:
    """The capture configuration of a teacher LM in ``folder`` on a task.

    Raises:
        UserError: no weights there, or ``k`` is more than the vocabulary.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder}: no safetensors weights; run `dvc repro` or `dvc pull` first")
    if not 1 <= k <= len(tokenizer):
        raise UserError(f"logits.k: found {k}, allowed: 1 to {len(tokenizer)}, the vocabulary")
    hashes = [sha256_file(path) for path in weights]
    texts = [
        task.render_prompt(_PROBE),
        task.signatures(),
        tokenizer.bos_token,
        tokenizer.eos_token,
    ]
    return Capture(
        model_sha256=hashes[0] if len(hashes) == 1 else _sha256(hashes),
        tokenizer_sha256=sha256_file(folder / "tokenizer.json"),
        prompt_form=task.prompt,
        prompt_sha256=_sha256(texts),
        vocabulary=len(tokenizer),
        k=k,
    )


def top_k(logits: torch.Tensor, k: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probabilities of the k most probable tokens, shape (tokens, k) each.

    Models of one family pad the same vocabulary to different sizes, so the softmax is over the
    first ``vocabulary`` of the logits, shape (tokens, at least vocabulary): real tokens only.
    """
    values, ids = logits[:, :vocabulary].float().log_softmax(-1).topk(k, dim=-1)
    return ids, values


def write(path: Path, rows: Sequence[Row], capture: Capture) -> None:
    """Write all rows atomically; the same rows give the same bytes.

    Log-probabilities are rounded to float16: an error of at most 0.4% of any probability above
    1e-7.
    """
    kind = np.uint16 if capture.vocabulary <= 1 << 16 else np.uint32
    lengths = [len(row.tokens) for row in rows]
    k = capture.k
    tensors = {
        "tokens": _join([row.tokens for row in rows], kind, ()),
        "ids": _join([row.ids for row in rows], kind, (k,)),
        "log_probs": _join([row.log_probs for row in rows], np.float16, (k,)),
        "ends": np.cumsum(lengths, dtype=np.uint32),
    }
    header = json.dumps({**asdict(capture), "rows": [row.id for row in rows]}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(tensors, partial, metadata={_HEADER: header})
    partial.chmod(0o644)
    partial.replace(path)


def read(path: Path, expected: Capture) -> Iterator[Row]:
    """All rows in the order written, ids as int64 and log-probabilities as float32.

    The file is checked when this is called, not when the first row is asked for.

    Raises:
        UserError: no such file, none of this kind, or captured otherwise than ``expected``.
    """
    if not path.is_file():
        raise UserError(f"{path}: file not found; run `dvc repro logits` or `dvc pull` first")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError):
        raise UserError(
            f"{path}: no file of captured log-probabilities; restore it with `dvc checkout`"
        ) from None
    names = header.pop("rows")
    wrong = [
        f"  - {key}: captured with {header.get(key)!r}, this run has {value!r}"
        for key, value in asdict(expected).items()
        if header.get(key) != value
    ]
    if wrong:
        listing = "\n".join(wrong)
        raise UserError(
            f"{path}: captured from another model, tokenizer or prompt than this run has\n{listing}\n"
            "capture anew with `dvc repro logits`"
        )
    return _rows(names, tensors)


def _rows(names: Sequence[str], tensors: dict[str, np.ndarray]) -> Iterator[Row]:
    start = 0
    for name, end in zip(names, tensors["ends"].tolist(), strict=True):
        yield Row(
            name,
            tensors["tokens"][start:end].astype(np.int64),
            tensors["ids"][start:end].astype(np.int64),
            tensors["log_probs"][start:end].astype(np.float32),
        )
        start = end


def _join(parts: Sequence[np.ndarray], kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.empty((0, *shape)), *parts]).astype(kind)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
