"""supertiny: from a large LLM to a super-tiny ONNX model, as one reproducible DVC graph."""

from importlib import import_module
from typing import Any


def load(folder: Any, threads: int | None = None) -> Any:
    """The model of a folder that `dvc repro` or `supertiny export` made, ready to answer.

    ``load("models/onnx/int8").predict("dim the kitchen lights to 30")`` is a `ToolCall`; see
    `supertiny.runtime.OnnxStudent` for the rest, and for the errors.
    """
    # By name: every stage imports this package, and only some depend on the runtime.
    return import_module("supertiny.runtime").OnnxStudent(folder, threads)
