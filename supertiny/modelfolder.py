"""A folder with an exported student: its files, and that no weight is read from outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from supertiny.errors import UserError

DATA_FILE = "model.onnx.data"
MODEL_FILES = ("genai_config.json", "model.onnx", DATA_FILE, "tokenizer.json")
DRAFTS_FILE = "drafts.json"  # of one task; without it the model answers the same, and later
TASK_FOLDER = "task"
TASK_FILES = ("task.yaml", "tools.json")


def size_mb(model: Path) -> float:
    """Megabytes (10**6 bytes) of all files of a model folder, or of a model that is one file."""
    files = [model, *model.rglob("*")]
    return round(sum(path.stat().st_size for path in files if path.is_file()) / 1e6, 1)


def check_folder(folder: Path) -> None:
    """Raises `UserError` when a file that `OnnxStudent` needs is missing from a model folder, or
    is read from outside of it."""
    needed = [*MODEL_FILES, *(f"{TASK_FOLDER}/{name}" for name in TASK_FILES)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        state = f"lacks {', '.join(missing)}" if folder.is_dir() else "not found"
        raise UserError(f"{folder}: {state}; make it with `dvc repro` or fetch it with `dvc pull`")
    strange = sorted(_weight_files(folder / "model.onnx") - {DATA_FILE})
    if strange:
        raise UserError(
            f"{folder}/model.onnx: reads weights from {', '.join(strange)}; only {DATA_FILE} beside "
            "it is allowed, and nothing was loaded"
        )


def _weight_files(graph: Path) -> set[str]:
    """The files beside an ONNX graph that it names as holding weights."""
    import onnx  # slow to load

    model = onnx.load(graph, load_external_data=False)
    return {
        entry.value
        for tensor in _tensors([model.graph, *model.functions])
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(graphs: Iterable[Any]) -> Iterator[Any]:
    """Every tensor of ONNX graphs and functions: weights, constants, and those of inner graphs."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                inner = [attribute.g] if attribute.HasField("g") else []
                yield from _tensors([*inner, *attribute.graphs])
