"""The whole graph at smoke size, and what DVC does with it: caching, partial re-runs, clones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import make_project, run

TRAINED = {
    "sft", "rl", "logits", "prune", "distill", "export", "quantize@int8", "quantize@int4",
    "evaluate@sft", "evaluate@rl", "evaluate@pruned", "evaluate@tiny", "evaluate@fp32",
    "evaluate@int8", "evaluate@int4", "benchmark@fp32", "benchmark@int8", "benchmark@int4",
    "divergence@int8", "divergence@int4", "confidence", "gate", "bundle", "report",
}  # fmt: skip
STAGES = {"fetch", "prepare", "evaluate@rules", "evaluate@base"} | TRAINED
DVC = str(Path(sys.executable).parent / "dvc")
# Some thirty processes, most of which import torch: minutes where the machine has other work.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone-like repository in which `dvc repro` has run once."""
    folder = make_project(tmp_path_factory.mktemp("smoke") / "project")
    run(folder, "git", "init", "-q")
    run(folder, DVC, "init", "-q")
    run(folder, DVC, "config", "core.analytics", "false")
    run(folder, DVC, "repro")
    return folder


def changed(folder):
    """Stages that `dvc status` names: those with a changed dep or param of their own."""
    status = json.loads(run(folder, DVC, "status", "--json").stdout)
    return {name for name in status if name in STAGES}


def test_every_stage_ran_and_left_what_it_promised(project):
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    assert set(lock) == STAGES
    for stage in lock.values():
        for out in stage.get("outs", []):
            assert (project / out["path"]).exists(), out["path"]


def test_a_second_repro_runs_nothing(project):
    done = run(project, DVC, "repro")
    assert "Running stage" not in done.stdout
    assert changed(project) == set()


@pytest.mark.parametrize(
    ("key", "value", "directly"),
    [
        (("sft", "learning_rate"), 0.5, {"sft"}),
        (("evaluate", "few_shot"), 3, {stage for stage in STAGES if stage.startswith("evaluate")}),
        (
            ("benchmark", "usd_per_hour"),
            7.0,
            {"benchmark@fp32", "benchmark@int8", "benchmark@int4"},
        ),
        (("report", "examples"), 3, {"report"}),
        (("prepare", "train_rows"), 301, {"prepare"}),
        (("fetch", "random_layers"), 3, {"fetch"}),
    ],
)
def test_a_changed_param_touches_its_own_stages_and_the_report(project, key, value, directly):
    params = project / "params.yaml"
    before = params.read_text()
    values = yaml.safe_load(before)
    values[key[0]][key[1]] = value
    try:
        params.write_text(yaml.safe_dump(values))
        assert changed(project) == directly | {"report"}  # which shows every param
    finally:
        params.write_text(before)


def test_a_changed_sft_param_reruns_sft_and_what_is_behind_it(project):
    params = project / "params.yaml"
    before = params.read_text()
    assert "learning_rate: " in before
    values = yaml.safe_load(before)
    values["sft"]["learning_rate"] *= 2
    try:
        params.write_text(yaml.safe_dump(values))
        plan = run(project, DVC, "repro", "--dry", "--force-downstream").stdout
        planned = {line.split("'")[1] for line in plan.splitlines() if line.startswith("Running")}
    finally:
        params.write_text(before)
    assert planned == TRAINED


def test_two_cold_runs_give_the_same_hashes(project, tmp_path):
    other = make_project(tmp_path / "other")
    run(other, "git", "init", "-q")
    run(other, DVC, "init", "-q")
    run(other, DVC, "repro", "sft")

    def hashes(folder):
        lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
        return {name: lock[name]["outs"] for name in ("fetch", "prepare", "sft")}

    assert hashes(other) == hashes(project)


def test_metric_files_are_flat_numbers(project):
    for path in (project / "metrics").rglob("*.json"):
        for key, value in json.loads(path.read_text()).items():
            assert isinstance(value, int | float), f"{path}: {key} is {value!r}"


def test_predict_answers_with_a_call_or_says_why_not(project):
    command = [sys.executable, "-m", "supertiny.cli", "predict", "--model", "models/onnx/int8"]
    done = run(project, *command, "turn on the lamp", check=False)
    if done.returncode == 0:
        assert set(json.loads(done.stdout)) == {"name", "arguments"}
    else:
        assert done.returncode == 1 and done.stderr.startswith("error: no legal call: ")


def test_a_mistake_in_params_stops_before_any_work(project):
    params = project / "params.yaml"
    before = params.read_text()
    try:
        # A mistake in a late section stops the first stage that would run.
        text = before.replace("usd_per_hour", "usd_per_huor").replace(
            "random_layers: 2", "random_layers: 3"
        )
        params.write_text(text)
        done = run(project, DVC, "repro", "fetch", check=False)
        assert done.returncode != 0
        output = done.stdout + done.stderr
        assert "benchmark.usd_per_huor: unknown key" in output
        assert "benchmark.usd_per_hour: missing" in output
        assert "Traceback" not in output
    finally:
        params.write_text(before)
        subprocess.run([DVC, "checkout", "-q"], cwd=project, check=False)
