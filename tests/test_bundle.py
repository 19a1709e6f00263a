"""A bundle runs alone, is the same each time, and is refused once it is not as it was made."""

import json
import os
import subprocess
import sys

import onnx
import pytest

import supertiny
from supertiny.bundle import hand_over, write_bundle
from supertiny.calls import ToolCall
from supertiny.checksums import SUMS, checksums
from supertiny.errors import UserError
from supertiny.io import read_json, write_json

SCORE = {
    "n": 9, "exact_match": 0.9, "exact_match_low": 0.8, "exact_match_high": 0.95,
    "tool_accuracy": 0.99, "no_call_precision": 1.0, "no_call_recall": 0.5,
}  # fmt: skip
SPEED = {"latency_p50_ms": 12.3, "latency_p95_ms": 45.6, "peak_rss_mib": 300}
SURE = {"n": 50, "threshold": 0.75, "coverage": 0.8, "accuracy_answered": 0.975}
CURVE = {"intercept": 1.0, "slope": 2.0, "threshold": 0.75}
ORIGIN = {"source": "hub", "repo": "some/base", "licence": "apache-2.0"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    made = {"score": SCORE, "speed": SPEED, "base": ORIGIN, "sure": SURE, "curve": CURVE}
    for name, values in made.items():
        write_json(folder / f"{name}.json", values)
    (folder / "train.jsonl").write_text("{}\n")
    names = {"evaluation": "score", "benchmark": "speed", "confidence": "sure"}
    results = {key: folder / f"{name}.json" for key, name in names.items()}
    inputs = {"base": folder / "base.json", "train_queries": folder / "train.jsonl"}
    return results, inputs, folder / "curve.json"


@pytest.fixture
def bundle(taught_onnx, lamps, parts, tmp_path):
    write_bundle(taught_onnx, lamps, tmp_path / "bundle", *parts)
    return tmp_path / "bundle"


def test_it_answers_and_says_what_it_is(bundle):
    model = supertiny.load(bundle)
    prediction = model.predict("Garage light on")
    assert prediction == ToolCall("LightOn", {"area": "Garage"})
    assert prediction.ask_teacher is (prediction.confidence < CURVE["threshold"])
    lineage = read_json(bundle / "lineage.json")
    assert lineage["base"] == ORIGIN
    assert lineage["inputs"].keys() == {"train_queries"}
    card = (bundle / "README.md").read_text()
    assert "90.0% (80.0% to 95.0%)" in card and "12 ms" in card and "some/base" in card
    assert "80.0% itself, 97.5% of them right" in " ".join(card.split())
    assert subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=bundle).returncode == 0


def test_the_same_parts_give_the_same_bytes(bundle, taught_onnx, lamps, parts, tmp_path):
    write_bundle(taught_onnx, lamps, tmp_path / "again", *parts)
    assert checksums(tmp_path / "again") == checksums(bundle)


def test_onnxruntime_genai_alone_can_run_it(bundle):
    """As the model card says: the package, the prompt form and the grammar file, none of our code."""
    script = """
import sys, numpy, onnxruntime_genai as og
from pathlib import Path
folder = Path(sys.argv[1])
model = og.Model(str(folder))
tokenizer = og.Tokenizer(model)
prompt = [1, *tokenizer.encode(" garage light on\\n")]
params = og.GeneratorParams(model)
params.set_search_options(max_length=64, do_sample=False)
params.set_guidance("lark_grammar", (folder / "task/grammar.lark").read_text(), True)
generator = og.Generator(model, params)
generator.append_tokens(numpy.array([prompt], dtype=numpy.int32))
while not generator.is_done():
    generator.generate_next_token()
print(repr(tokenizer.decode(generator.get_sequence(0)[len(prompt):])))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(bundle)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("' light on\\n area garage")


@pytest.mark.parametrize("name", ["model.onnx.data", "task/tools.json", "README.md"])
def test_a_changed_file_is_named_and_nothing_is_loaded(bundle, name):
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=name):
        supertiny.load(bundle)


@pytest.mark.parametrize("change", ["added", "missing"])
def test_a_file_added_or_missing_is_named(bundle, change):
    path = bundle / ("extra.txt" if change == "added" else "README.md")
    path.write_text("x") if change == "added" else path.unlink()
    with pytest.raises(UserError, match=path.name):
        supertiny.load(bundle)


def test_weights_outside_the_folder_are_not_read(bundle):
    (bundle / SUMS).unlink()
    path = bundle / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(e for e in tensor.external_data if e.key == "location").value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="../secret"):
        supertiny.load(bundle)


def test_handing_over_adds_the_commit_and_overwrites_nothing(bundle, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.chdir(checkout)
    (checkout / "dvc.lock").write_text("schema: '2.0'\n")
    identity = {
        f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    for command in ["init -q", "add -A", "commit -qm first"]:
        subprocess.run(["git", *command.split()], check=True, env={**os.environ, **identity})
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    hand_over(bundle, tmp_path / "out")
    lineage = json.loads((tmp_path / "out/lineage.json").read_text())
    assert lineage["commit"] == commit.strip()
    assert len(lineage["dvc_lock"]) == 64
    supertiny.load(tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        hand_over(bundle, tmp_path / "out")
    (checkout / "dvc.lock").write_text("changed\n")
    hand_over(bundle, tmp_path / "later")
    assert read_json(tmp_path / "later/lineage.json")["commit"] == commit.strip() + "-dirty"


def test_there_is_nothing_to_hand_over(tmp_path):
    with pytest.raises(UserError, match="dvc repro"):
        hand_over(tmp_path / "none", tmp_path / "out")
