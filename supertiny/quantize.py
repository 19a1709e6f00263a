"""Weight-only quantization to an ONNX folder, the embedding table included."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from supertiny.errors import UserError
from supertiny.export import whole_folder
from supertiny.modelfolder import DATA_FILE, check_folder
from supertiny.params.quantize import Quantize
from supertiny.rounding import Rounded, round_to_nearest, stacked, whole_blocks

BITS = {"int8": 8, "int4": 4}
_GRAPH = "model.onnx"
_LOOKUP = "/model/embed_tokens/Gather"
_HEAD = "/lm_head/MatMul"
_LAYER = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)_proj/MatMul")
_MODULES = {"attn": "self_attn", "mlp": "mlp"}  # names in the graph and in PyTorch
_PARTS = {"attn": "attention", "mlp": "feed_forward"}
# What a tensor of the graph belongs to, by a piece of its name; the first that fits.
_CLASSES = {
    "norm": "norms",
    "lm_head": "embedding",
    "embed_tokens": "embedding",
    ".attn.": "attention",
    ".mlp.": "feed_forward",
}


def quantize_onnx(
    source: Path,
    out: Path,
    variant: str,
    params: Quantize,
    learned: Mapping[str, Rounded] | None = None,
    keep: frozenset[tuple[int, str]] = frozenset(),
) -> None:
    """Round the weights of an fp32 model folder; ``out`` is replaced as by `whole_folder`.

    Weights are rounded to nearest, symmetric, with one fp32 scale a block; norms stay fp32 and
    matrix products quantize their input to 8 bits as they run. A head tied to the embedding is
    stored once.

    Args:
        source: what `supertiny.export.export_onnx` made; all but its weights is taken over.
        learned: int4 weights that another method has rounded, by the name of the PyTorch module;
            they go into the file as they are.
        keep: layer and part, ``attention`` or ``feed_forward``, that int4 stores in 8 bits.

    Raises:
        UserError: an unknown variant, no model there, or an architecture or width that is not known
            here.
    """
    if variant not in BITS:
        raise UserError(f"quantize: variant {variant!r}; allowed: {', '.join(sorted(BITS))}")
    check_folder(source)
    path = source / _GRAPH
    model = onnx.load(path)
    _round(model.graph, path, variant, params, learned or {}, keep)
    with whole_folder(out) as folder:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(_GRAPH, DATA_FILE))
        # Small tensors stay inside the graph: shape inference cannot read them from another file.
        onnx.save(
            model,
            folder / _GRAPH,
            save_as_external_data=True,
            location=DATA_FILE,
            size_threshold=1024,
        )


def _round(
    graph: onnx.GraphProto,
    path: Path,
    variant: str,
    params: Quantize,
    learned: Mapping[str, Rounded],
    keep: frozenset[tuple[int, str]],
) -> None:
    """Replace every fp32 matrix of a graph by a rounded one; see `quantize_onnx`."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    heads = [node for node in graph.node if node.name == _HEAD]
    lookups = [node for node in graph.node if node.name == _LOOKUP]
    if len(heads) != 1 or len(lookups) != 1:
        raise UserError(
            f"{path}: expected one embedding and one head, found {len(lookups)} and {len(heads)}; "
            "this architecture is not known here"
        )
    # Of tied ones the graph has the head's weight, and reads tokens from it turned round.
    turned = [node for node in graph.node if node.output[0] == lookups[0].input[0]]
    shared = [list(node.input) for node in turned] == [[heads[0].input[1]]]
    bits = 8 if variant == "int8" else params.embedding_bits
    last = _weight(tensors[heads[0].input[1]])
    block_size = whole_blocks(last.shape[1], params.block_size)
    head = round_to_nearest(last, bits, block_size, True)
    rows = head
    if not shared:
        table = numpy_helper.to_array(tensors[lookups[0].input[0]])
        rows = round_to_nearest(table, bits, block_size, True)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name == _HEAD:
            nodes += [matmul_nbits(graph, node, head)]
        elif node.name == _LOOKUP:
            nodes += _lookup(graph, node, rows, shared)
        elif node.op_type == "MatMul":
            weight = _weight(tensors[node.input[1]])
            nodes += [
                matmul_nbits(graph, node, _layer(node.name, weight, variant, params, learned, keep))
            ]
        elif node not in turned:
            nodes += [node]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _layer(
    name: str,
    weight: np.ndarray,
    variant: str,
    params: Quantize,
    learned: Mapping[str, Rounded],
    keep: frozenset[tuple[int, str]],
) -> Rounded:
    """The rounded weight (out, in) of one matrix product inside a layer."""
    found = _LAYER.fullmatch(name)
    if found is None:
        raise UserError(f"{name}: this architecture is not known here")
    number, part, projection = found.groups()
    if variant == "int8" or (int(number), _PARTS[part]) in keep:
        return round_to_nearest(weight, 8, whole_blocks(weight.shape[1], params.block_size), True)
    if not learned:
        return round_to_nearest(weight, 4, params.block_size, params.symmetric)
    # The model builder joins the three matrices that read the same input.
    letters = "qkv" if projection == "qkv" else [projection]
    prefix = f"model.layers.{number}.{_MODULES[part]}"
    rounded = stacked([learned[f"{prefix}.{letter}_proj"] for letter in letters])
    if rounded.codes.shape != weight.shape:
        raise UserError(
            f"{name}: found rounded weights of shape {rounded.codes.shape}, expected {weight.shape}"
        )
    return rounded


def _weight(tensor: onnx.TensorProto) -> np.ndarray:
    """The weight (out, in) of a matrix product, which the graph stores as (in, out)."""
    return np.ascontiguousarray(numpy_helper.to_array(tensor).T)


def matmul_nbits(graph: onnx.GraphProto, node: onnx.NodeProto, rounded: Rounded) -> onnx.NodeProto:
    """A MatMulNBits in the place of a MatMul; its tensors are added to the graph."""
    name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
    inputs = [node.input[0], *_add_tensors(graph, name, rounded)]
    return helper.make_node(
        "MatMulNBits",
        inputs,
        list(node.output),
        name=f"{node.name}NBits",
        domain="com.microsoft",
        K=rounded.codes.shape[1],
        N=rounded.codes.shape[0],
        bits=rounded.bits,
        block_size=rounded.block_size,
        accuracy_level=4,  # inputs in 8 bits
    )


def _lookup(
    graph: onnx.GraphProto, node: onnx.NodeProto, rounded: Rounded, shared: bool
) -> Sequence[onnx.NodeProto]:
    """What reads a rounded embedding table in the place of a Gather.

    Args:
        shared: whether the table is the head's, whose tensors are in the graph.
    """
    name = "lm_head" if shared else "model.embed_tokens"
    if not shared:
        _add_tensors(graph, name, rounded)
    count, width = rounded.codes.shape
    shape = np.array([count, width * rounded.bits // 8], np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, "model.embed_tokens.shape"))
    rows = "/model/embed_tokens/rows"
    return [
        helper.make_node("Reshape", [f"{name}.codes", "model.embed_tokens.shape"], [rows], name=rows),
        helper.make_node(
            "GatherBlockQuantized",
            [rows, node.input[1], f"{name}.scales"],
            list(node.output),
            name="/model/embed_tokens/GatherBlockQuantized",
            domain="com.microsoft",
            bits=rounded.bits,
            block_size=rounded.block_size,
            gather_axis=0,
            quantize_axis=1,
        ),
    ]  # fmt: skip


def _add_tensors(graph: onnx.GraphProto, name: str, rounded: Rounded) -> list[str]:
    """Codes, scales and, unless symmetric, zero points of one matrix: the names they have now."""
    arrays = {"codes": rounded.packed_codes(), "scales": rounded.scales}
    if not rounded.symmetric:
        arrays["zeros"] = rounded.packed_zeros()
    for part, array in arrays.items():
        array = np.ascontiguousarray(array)
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
    return [f"{name}.{part}" for part in arrays]


def shares(folder: Path) -> dict[str, float]:
    """What the bytes of a model folder are spent on, in MB (10**6 bytes).

    Returns:
        ``mb_embedding`` (the head included), ``mb_attention``, ``mb_feed_forward``, ``mb_norms``,
        ``mb_other`` (the graph, position tables, tokenizer and task), and their sum ``size_mb``.
    """
    model = onnx.load(folder / _GRAPH, load_external_data=False)
    sizes = dict.fromkeys(sorted({*_CLASSES.values(), "other"}), 0)
    for tensor in model.graph.initializer:
        fitting = [name for piece, name in _CLASSES.items() if piece in tensor.name]
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        sizes[[*fitting, "other"][0]] += int(np.prod(tensor.dims)) * width
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sizes["other"] += whole - sum(sizes.values())
    megabytes = {f"mb_{name}": round(size / 1e6, 3) for name, size in sizes.items()}
    return {**megabytes, "size_mb": round(sum(megabytes.values()), 3)}
