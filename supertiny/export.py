"""PyTorch weights to an ONNX folder that `supertiny.runtime` runs, and the proof of parity."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from supertiny.conversation import Said, question
from supertiny.drafting import Drafts
from supertiny.errors import UserError
from supertiny.io import read_json, write_json, write_text
from supertiny.modelfolder import DRAFTS_FILE, TASK_FILES, TASK_FOLDER, check_folder, size_mb
from supertiny.runtime import OnnxStudent, spread
from supertiny.scoring import load_fp32, logits_along
from supertiny.task import Task, load_task_folder

MAX_POSITIONS = 1024  # of a task whose prompt is the query alone


def export_onnx(source: Path, task: Task, out: Path, drafts: Drafts | None = None) -> None:
    """Build ``out``, fp32, from ``source`` with the model builder of ONNX Runtime GenAI, offline.

    With drafts the graph gives the logits of every position, which checks of them need, else those
    of the last one. ``out`` is replaced as by `whole_folder`; the same input gives the same bytes.

    Args:
        source: config, tokenizer and safetensors weights.
        drafts: what the runtime drafts answers by; without them it writes token by token.

    Raises:
        UserError: ``source`` is missing or the builder cannot build it.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{source}/config.json: not found; run `dvc repro` or `dvc pull` first")
    with (
        whole_folder(out) as built,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary,
    ):
        weights = source
        if task.prompt == "query":
            weights = _shortened(source, Path(temporary) / "source")
        _build(weights, built, Path(temporary) / "cache", every_position=drafts is not None)
        _complete(source, built, task)
        if drafts is not None:
            drafts.write(built / DRAFTS_FILE)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A path beside ``out`` to write a model folder to; it replaces ``out`` in one rename once it is
    whole, and leaves it as it was where anything goes wrong."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*"):  # by a killed run
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "model"
        yield folder
        check_folder(folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def _shortened(source: Path, folder: Path) -> Path:
    """The model as it is but for the longest sequence it is said to take, in a folder of links.

    The builder tabulates rotary positions up to there: 2 MB for 8,192, when a query and its answer
    have a few hundred tokens at most.
    """
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    config = read_json(source / "config.json")
    config["max_position_embeddings"] = min(config["max_position_embeddings"], MAX_POSITIONS)
    (folder / "config.json").unlink()
    write_json(folder / "config.json", config)
    return folder


def _build(source: Path, built: Path, cache: Path, every_position: bool) -> None:
    # A process of its own: the builder changes sys.path and import state of whoever calls it.
    extra = {"hf_token": "false", "prune_lm_head": "false" if every_position else "true"}
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(source), "-o", str(built), "-p", "fp32", "-e", "cpu"]
    command += ["-c", str(cache), "--extra_options", *(f"{k}={v}" for k, v in extra.items())]
    # The builder stamps the commit of the repository around its package on the model; with no
    # repository to be found it is that of the package, not that of whatever holds the environment.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GIT_DIR": os.devnull}
    environment = {**os.environ, **offline}
    print(f"building {source}", flush=True)
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0 or not (built / "model.onnx").is_file():
        tail = "\n".join(result.stdout.strip().splitlines()[-15:])
        raise UserError(f"{source}: the ONNX model builder failed on it, its last lines:\n{tail}")


def _complete(source: Path, built: Path, task: Task) -> None:
    """Add tokenizer and task, and make the JSON files canonical."""
    # The builder writes the tokenizer anew; the one that training used must be the one that ships,
    # without the spaces that lay it out, which are half of it.
    tokenizer = json.dumps(
        read_json(source / "tokenizer.json"), ensure_ascii=False, separators=(",", ":")
    )
    write_text(built / "tokenizer.json", tokenizer)
    for name in ("genai_config.json", "tokenizer_config.json"):
        write_json(built / name, read_json(built / name))
    (built / TASK_FOLDER).mkdir()
    for name in TASK_FILES:
        shutil.copyfile(task.folder / name, built / TASK_FOLDER / name)
    load_task_folder(built / TASK_FOLDER)
    for path in built.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def parity(
    source: Path, folder: Path, queries: Sequence[Said], max_new_tokens: int
) -> dict[str, Any]:
    """Compare an ONNX folder with the fp32 PyTorch weights.

    ONNX Runtime answers freely, one query at a time; PyTorch then reads query and answer at once.
    Where its own first choice is the answer's token at each place, it would have answered the same.

    Returns:
        ``parity_rows``; ``greedy_identical``, the rows whose greedy token ids are the same and
        end at the same place; ``max_abs_logit_difference`` over the vocabulary, after the prompt
        and after each token of the ONNX model's own answer; ``size_mb``.
    """
    student = OnnxStudent(folder)
    rows, logits = [], []
    # All of them first: its threads spin for a while after each step and would take PyTorch's cores.
    for query in tqdm(queries, unit="query", desc="parity, onnx", mininterval=1.0):
        prompt = student.encode(query)
        logits.append(student.generate_with_logits(prompt, max_new_tokens)[1])
        rows.append((prompt, logits[-1].argmax(-1).tolist()))
    wanted = logits_along(load_fp32(source), rows, "parity, torch")
    identical, difference = 0, 0.0
    for (_, answer), found, along in zip(rows, logits, wanted, strict=True):
        expected = along.numpy()
        identical += expected.argmax(-1).tolist() == answer
        difference = max(difference, float(np.abs(found - expected).max()))
    return {
        "parity_rows": len(queries),
        "greedy_identical": identical,
        "max_abs_logit_difference": float(f"{difference:.2g}"),
        "size_mb": size_mb(folder),
    }


def parity_queries(rows: Sequence[Mapping[str, Any]], count: int) -> list[Said]:
    """The queries of at most ``count`` rows, spread evenly over the file."""
    return [question(row) for row in spread(rows, count)]
