"""int8 and int4: what a method rounds is what the file holds, at the size that was promised."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import LESSONS, files
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from supertiny.calibration import calibrated
from supertiny.calls import call_from_json
from supertiny.encoding import encode
from supertiny.errors import UserError
from supertiny.export import MAX_POSITIONS, export_onnx
from supertiny.io import read_json, write_json
from supertiny.params.quantize import Quantize
from supertiny.quantize import matmul_nbits, quantize_onnx, shares
from supertiny.rounding import Rounded, round_to_nearest, whole_blocks
from supertiny.runtime import OnnxStudent
from supertiny.scoring import load_fp32
from supertiny.sensitivity import Loss, most_sensitive, sensitivity

PARAMS = Quantize(
    variants=("int8", "int4"),
    block_size=32,
    symmetric=True,
    method="autoround",
    embedding_bits=8,
    keep_int8=0,
    sensitivity_rows=2,
    calibration_rows=6,
    calibration_tokens=32,
    iterations=20,
    precision="fp32",
    seed=1,
    parity_rows=1,
    max_new_tokens=8,
)
QUERIES = [lesson["query"] for lesson in LESSONS]


def changed(**values):
    return dataclasses.replace(PARAMS, **values)


def tensors(folder):
    graph = onnx.load(folder / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def in_file(folder, name, bits):
    """A weight (out, in) as the codes, scales and zero points of the file give it."""
    found = tensors(folder)
    codes, scales = found[f"{name}.codes"], found[f"{name}.scales"]
    zeros = found.get(f"{name}.zeros")
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1)
        if zeros is not None:
            zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(len(zeros), -1)
    middle = 1 << (bits - 1) if zeros is None else zeros[:, : scales.shape[1], None]
    values = (codes.astype(np.float32) - middle) * scales[:, :, None]
    return values.reshape(len(codes), -1)


@pytest.fixture(scope="module")
def rows(taught_model, lamps):
    return encode(taught_model, LESSONS, lamps)


@pytest.fixture(scope="module")
def learned(taught_model, rows):
    return calibrated(taught_model, rows, PARAMS)


def quantized(source, out, variant, params, learned=None, keep=frozenset()):
    quantize_onnx(source, out, variant, params, learned, keep)
    return out


@pytest.fixture(scope="module")
def taught_int8(taught_onnx, tmp_path_factory):
    return quantized(taught_onnx, tmp_path_factory.mktemp("onnx") / "int8", "int8", PARAMS)


@pytest.fixture(scope="module")
def taught_int4(taught_onnx, learned, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "int4"
    return quantized(taught_onnx, out, "int4", PARAMS, learned)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [32, 64])  # 96 columns: three blocks, one and a half
def test_rounding_to_nearest_is_off_by_half_a_step_at_most(bits, symmetric, block_size):
    weight = np.random.default_rng(0).normal(1, 2, (6, 96)).astype(np.float32)
    weight[0] = 0
    rounded = round_to_nearest(weight, bits, block_size, symmetric)
    assert rounded.scales.shape == (6, -(-96 // block_size))
    steps = np.abs(rounded.scales)[:, np.arange(96) // block_size]
    gap = np.abs(rounded.dequantized() - weight)
    # With as many codes below as above the middle, one end is cut off by up to a step.
    assert (gap <= (1.001 if symmetric else 0.501) * steps).all()
    assert np.median(gap[1:] / steps[1:]) < 0.3
    assert rounded.symmetric == symmetric
    assert rounded.codes.min() == 0 and not rounded.dequantized()[0].any()
    if block_size == 32:  # of longer blocks fewer have as large a weight on the other side
        assert rounded.codes.max() == (1 << bits) - 1


def test_whole_blocks_divide_a_row_and_a_width_that_has_none_is_refused():
    assert [whole_blocks(width, 128) for width in (576, 1280, 96, 16)] == [64, 128, 32, 16]
    with pytest.raises(UserError, match="a matrix has 24 columns"):
        whole_blocks(24, 128)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [32, 64])  # 96 columns: three blocks, one and a half
@pytest.mark.parametrize("accuracy", [1, 4])  # inputs in fp32, and in 8 bits as in the models
def test_onnx_runtime_reads_the_packed_weights_as_they_were_rounded(
    bits, symmetric, block_size, accuracy
):
    generator = np.random.default_rng(1)
    rounded = round_to_nearest(
        generator.normal(0.5, 1, (64, 96)).astype(np.float32), bits, block_size, symmetric
    )
    helper = onnx.helper
    graph = helper.make_graph(
        [],
        "one",
        [helper.make_tensor_value_info("x", 1, [None, 96])],
        [helper.make_tensor_value_info("y", 1, [None, 64])],
    )
    node = matmul_nbits(
        graph, helper.make_node("MatMul", ["x", "w"], ["y"], name="/a/MatMul"), rounded
    )
    next(a for a in node.attribute if a.name == "accuracy_level").i = accuracy
    graph.node.append(node)
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"x": np.eye(96, dtype=np.float32)})[0]
    assert np.allclose(found.T, rounded.dequantized(), atol=1e-6)
    for count in (1, 2, 5, 17):  # kernels differ
        inputs = generator.normal(0, 1, (count, 96)).astype(np.float32)
        wanted = inputs @ rounded.dequantized().T
        off = np.abs(session.run(None, {"x": inputs})[0] - wanted).max()
        assert off < (1e-4 if accuracy == 1 else 0.3)


def test_the_file_holds_autorounds_weights_and_not_others(taught_int4, learned):
    for number in range(2):
        prefix = f"model.layers.{number}"
        joined = [learned[f"{prefix}.self_attn.{letter}_proj"].dequantized() for letter in "qkv"]
        wanted = {
            f"{prefix}.attn.qkv_proj": np.concatenate(joined),
            f"{prefix}.attn.o_proj": learned[f"{prefix}.self_attn.o_proj"].dequantized(),
        }
        for name in ("gate_proj", "up_proj", "down_proj"):
            wanted[f"{prefix}.mlp.{name}"] = learned[f"{prefix}.mlp.{name}"].dequantized()
        for name, weight in wanted.items():
            assert np.array_equal(in_file(taught_int4, name, 4), weight), name


@pytest.mark.parametrize(
    ("method", "precision"), [("autoround", "fp32"), ("autoround", "bf16"), ("gptq", "fp32")]
)
def test_calibration_beats_rounding_to_nearest_on_the_rows_it_saw(
    method, precision, taught_model, rows
):
    """And so the weights that come back are near the model's own, rows and columns in order."""
    found = calibrated(taught_model, rows, changed(method=method, precision=precision))
    model = load_fp32(taught_model)
    names = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(found) == {name for name in names if name != "lm_head"}

    def loss(rounded: dict[str, Rounded]) -> float:
        model = load_fp32(taught_model)
        for name, weight in rounded.items():
            model.get_submodule(name).weight.data = torch.from_numpy(weight.dequantized())
        total = 0.0
        for prompt, answer in rows:
            ids = torch.tensor([prompt + answer])
            with torch.inference_mode():
                logits = model(ids).logits[0, len(prompt) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).item()
        return total / len(rows)

    nearest = {
        name: round_to_nearest(model.get_submodule(name).weight.detach().numpy(), 4, 32, True)
        for name in found
    }
    assert any((found[name].codes != nearest[name].codes).any() for name in found)
    assert loss(found) < loss(nearest)


@pytest.mark.parametrize("method", ["autoround", "gptq", "rtn"])
def test_a_row_that_ends_in_part_of_a_block_is_stored_as_it_was_rounded(
    method, taught_model, taught_onnx, rows, tmp_path
):
    params = changed(method=method, block_size=128, iterations=2)
    weights = {
        name: module.weight.detach().numpy()
        for name, module in load_fp32(taught_model).named_modules()
        if name.endswith(("down_proj", "o_proj"))
    }
    assert {weight.shape[1] % 128 for weight in weights.values()} != {0}
    if method == "rtn":
        learned = {name: round_to_nearest(w, 4, 128, True) for name, w in weights.items()}
        folder = quantized(taught_onnx, tmp_path / "onnx", "int4", params)
    else:
        learned = calibrated(taught_model, rows, params)
        folder = quantized(taught_onnx, tmp_path / "onnx", "int4", params, learned)
    for name, weight in weights.items():
        stored = in_file(folder, name.replace("self_attn", "attn"), 4)
        assert np.array_equal(stored[:, : weight.shape[1]], learned[name].dequantized()), name
    student = OnnxStudent(folder)
    prompt = student.encode(QUERIES[3])
    with torch.inference_mode():
        wanted = load_fp32(taught_model)(torch.tensor([prompt])).logits[0, -1].numpy()
    assert np.corrcoef(student.logits(prompt, [5])[0], wanted)[0, 1] > 0.9


def test_other_rows_give_other_weights_and_the_same_ones_the_same(taught_model, rows, learned):
    again = calibrated(taught_model, rows, PARAMS)
    other = calibrated(taught_model, rows[:2], PARAMS)
    name = "model.layers.1.mlp.down_proj"
    assert all((again[n].codes == learned[n].codes).all() for n in learned)
    assert all((again[n].scales == learned[n].scales).all() for n in learned)
    assert (other[name].codes != learned[name].codes).any()


def test_no_rows_to_calibrate_on_is_a_users_mistake(taught_model):
    with pytest.raises(UserError, match="no rows to calibrate on"):
        calibrated(taught_model, [], PARAMS)


@pytest.mark.parametrize(("variant", "bits"), [("int8", 8), ("int4", 4)])
def test_the_file_is_as_large_as_its_parameters_promise(variant, bits, taught_model, request):
    folder = request.getfixturevalue(f"taught_{variant}")
    config = read_json(taught_model / "config.json")
    model = load_fp32(taught_model)
    table = model.get_input_embeddings().weight.numel()
    linear = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    positions = MAX_POSITIONS * config["hidden_size"]
    heads = config["num_attention_heads"]
    scale = 32 / PARAMS.block_size
    promised = table * (8 + scale) / 8 + linear * (bits + scale) / 8 + 4 * positions / heads
    found = (folder / "model.onnx.data").stat().st_size
    assert found == pytest.approx(promised, rel=0.03)


def test_the_shares_of_the_file_add_up_to_it(taught_int4, taught_model):
    found = shares(taught_int4)
    whole = sum(path.stat().st_size for path in taught_int4.rglob("*") if path.is_file())
    parts = [value for key, value in found.items() if key.startswith("mb_")]
    assert len(parts) == 5 and min(parts) > 0
    assert found["size_mb"] == pytest.approx(sum(parts), abs=1e-9)
    assert found["size_mb"] == pytest.approx(whole / 1e6, abs=0.003)
    model = load_fp32(taught_model)
    table = model.get_input_embeddings().weight.numel()
    assert found["mb_embedding"] == pytest.approx(table * 9 / 8 / 1e6, abs=0.002)
    ff = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    assert found["mb_feed_forward"] == pytest.approx(ff * 5 / 8 / 1e6, abs=0.002)


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_no_fp32_matrix_is_left(variant, request):
    graph = onnx.load(request.getfixturevalue(f"taught_{variant}") / "model.onnx").graph
    assert {node.op_type for node in graph.node} & {"MatMul", "Gemm"} == set()
    left = [
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) > 1
        and not tensor.name.endswith((".scales", "_cache"))
    ]
    assert left == []


@pytest.fixture(scope="module")
def untied_model(taught_model, tmp_path_factory):
    """The taught model with a head of its own, twice the embedding."""
    out = tmp_path_factory.mktemp("models") / "untied"
    shutil.copytree(taught_model, out)
    weights = load_file(out / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    config = read_json(out / "config.json")
    write_json(out / "config.json", config | {"tie_word_embeddings": False})
    return out


@pytest.fixture(scope="module")
def untied_onnx(untied_model, lamps, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "untied"
    export_onnx(untied_model, lamps, out)
    return out


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once_and_an_untied_one_apart(bits, tied, request, tmp_path):
    name = "taught" if tied else "untied"
    exported = request.getfixturevalue(f"{name}_onnx")
    params = changed(embedding_bits=bits)
    folder = quantized(exported, tmp_path / "onnx", "int4", params)
    assert ("model.embed_tokens.codes" in tensors(folder)) != tied
    weights = load_fp32(request.getfixturevalue(f"{name}_model"))
    table = weights.get_input_embeddings().weight.detach().numpy()
    head = in_file(folder, "lm_head", bits)
    assert np.abs(head - (1 if tied else 2) * table).max() < 2**-bits * 2 * np.abs(head).max()
    student = OnnxStudent(folder)
    prompt = student.encode(QUERIES[3])
    with torch.inference_mode():
        wanted = weights(torch.tensor([prompt])).logits[0, -1].numpy()
    assert np.corrcoef(student.logits(prompt, [5])[0], wanted)[0, 1] > 0.9


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_it_still_answers_what_was_taught(variant, request):
    student = OnnxStudent(request.getfixturevalue(f"taught_{variant}"))
    for lesson in LESSONS:
        found = student.predict(lesson["query"].lower())  # strings come back in the query's casing
        assert found == call_from_json(lesson["call"]), lesson["query"]


def test_the_same_seed_gives_the_same_bytes(taught_onnx, taught_int4, learned, tmp_path):
    quantize_onnx(taught_onnx, tmp_path / "again", "int4", PARAMS, learned)
    assert files(taught_int4) == files(tmp_path / "again")


def test_kept_parts_are_in_8_bits_and_the_others_are_not(taught_onnx, learned, tmp_path):
    keep = frozenset({(1, "feed_forward")})
    folder = quantized(taught_onnx, tmp_path / "kept", "int4", PARAMS, learned, keep)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    bits = {
        node.name: next(a.i for a in node.attribute if a.name == "bits")
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }
    in_8 = {name for name, value in bits.items() if value == 8}
    assert in_8 == {"/lm_head/MatMulNBits"} | {
        f"/model/layers.1/mlp/{name}_proj/MatMulNBits" for name in ("gate", "up", "down")
    }


def test_sensitivity_finds_the_part_that_cannot_be_rounded_and_leaves_the_model_alone(
    taught_model, rows
):
    model = load_fp32(taught_model)
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[:, ::32] *= 40  # blocks whose other weights are lost beside their largest
    before = [p.clone() for p in model.parameters()]
    losses = sensitivity(model, rows, 4, 32, True)
    assert [(loss.layer, loss.part) for loss in losses] == [
        (at, part) for at in range(2) for part in ("attention", "feed_forward")
    ]
    assert most_sensitive(losses, 1) == {(1, "feed_forward")}
    assert all(loss.kl > 0 for loss in losses)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    finer = sensitivity(model, rows, 8, 32, True)
    assert max(loss.kl for loss in finer) < max(loss.kl for loss in losses)
    # Rows of 64 and 256 have no whole blocks of 48 but of 16, which is how 8 bits are stored.
    assert sensitivity(model, rows, 8, 48, True) == sensitivity(model, rows, 8, 16, True)
    assert sensitivity(model, rows, 4, 48, True) != sensitivity(model, rows, 4, 16, True)


def test_ties_of_sensitivity_go_to_the_earlier_layer():
    losses = [Loss(0, "a", 0.1), Loss(1, "a", 0.2), Loss(2, "a", 0.2), Loss(3, "a", 0.0)]
    assert most_sensitive(losses, 1) == {(1, "a")}
    assert most_sensitive(losses, 0) == set()


def test_an_unknown_variant_is_a_users_mistake(taught_onnx, tmp_path):
    with pytest.raises(UserError, match="variant 'int3'; allowed: int4, int8"):
        quantize_onnx(taught_onnx, tmp_path / "out", "int3", PARAMS)


def test_a_bad_method_is_refused_with_those_there_are(tmp_path):
    from pathlib import Path

    from supertiny.params.core import load

    text = Path("params.yaml").read_text()
    assert "  method: autoround\n" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("method: autoround", "method: awq"))
    with pytest.raises(UserError, match=r"quantize.method: found 'awq'.*autoround, gptq, rtn"):
        load(Quantize, path)
