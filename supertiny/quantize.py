"""Weight-only quantization to an ONNX folder, the embedding table included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from supertiny.errors import UserError
from supertiny.export import export_onnx
from supertiny.task import Task

_TABLE = "model.embed_tokens.weight"


def quantize_onnx(source: Path, task: Task, out: Path, variant: str, block_size: int) -> None:
    """Build a quantized variant of ``source`` in ``out``; see `supertiny.export.export_onnx`.

    Round to nearest, symmetric, one fp32 scale per ``block_size`` weights; norms stay fp32 and
    matrix products quantize their input to 8 bits as they run.

    Raises:
        UserError: an unknown variant, or what `export_onnx` raises.
    """
    if variant != "int8":
        raise UserError(f"quantize: variant {variant!r}; allowed: int8")
    options = {"block_size": str(block_size)}
    export_onnx(source, task, out, variant, options, post=share_embedding)


def share_embedding(folder: Path) -> None:
    """Let the embedding read the int8 weights of the head, if the model ties the two.

    The model builder leaves the table as a second copy in fp32, which is 42% of the int8 file of
    a 135M model. A tied head has the same rows, already in blocks along the hidden width, so one
    row of it, dequantized, is that token's embedding up to the head's own rounding.

    A model that does not tie them keeps its fp32 table.
    """
    path = folder / "model.onnx"
    model = onnx.load(path)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    lookups = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == _TABLE]
    heads = [
        node for node in graph.node if node.op_type == "MatMulNBits" and "lm_head" in node.name
    ]
    if len(lookups) != 1 or len(heads) != 1:
        raise UserError(
            f"{path}: expected one embedding and one int8 head, found "
            f"{len(lookups)} and {len(heads)}; this architecture is not known here"
        )
    lookup, head = lookups[0], heads[0]
    weights, scales = head.input[1], head.input[2]
    table = numpy_helper.to_array(tensors[_TABLE])
    blocks = numpy_helper.to_array(tensors[weights])  # (vocabulary, blocks, block size), uint8
    factors = numpy_helper.to_array(tensors[scales]).reshape(blocks.shape[:2])
    if not _same_rows(table, blocks, factors):
        return
    width = blocks.shape[1] * blocks.shape[2]
    flat = "model.embed_tokens.int8_shape"
    graph.initializer.append(
        numpy_helper.from_array(np.array([blocks.shape[0], width], np.int64), flat)
    )
    rows = "/model/embed_tokens/int8_rows"
    at = list(graph.node).index(lookup)
    graph.node.remove(lookup)
    graph.node.insert(at, helper.make_node("Reshape", [weights, flat], [rows], name=rows))
    gathered = helper.make_node(
        "GatherBlockQuantized",
        [rows, lookup.input[1], scales],
        list(lookup.output),
        name="/model/embed_tokens/GatherBlockQuantized",
        domain="com.microsoft",
        bits=8,
        block_size=blocks.shape[2],
        gather_axis=0,
        quantize_axis=1,
    )
    graph.node.insert(at + 1, gathered)
    graph.initializer.remove(tensors[_TABLE])
    data = folder / "model.onnx.data"
    data.unlink()
    # Small tensors stay inside the graph: shape inference cannot read them from another file.
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)


def _same_rows(table: np.ndarray, blocks: np.ndarray, scales: np.ndarray) -> bool:
    """Whether dequantized head rows are the table's rows within one step of each block."""
    if blocks.shape[0] != table.shape[0] or blocks.shape[1] * blocks.shape[2] != table.shape[1]:
        return False
    for start in range(0, len(table), 4096):  # a part at a time: the whole is gigabytes in fp32
        part = slice(start, start + 4096)
        step = np.abs(scales[part])[:, :, None]
        restored = (blocks[part].astype(np.float32) - 128) * scales[part][:, :, None]
        gap = np.abs(restored.reshape(len(step), -1) - table[part]).reshape(restored.shape)
        if (gap > 1.01 * step).any():
            return False
    return True
