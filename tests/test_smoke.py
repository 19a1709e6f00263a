"""The whole graph at smoke size, and what DVC does with it: caching, partial re-runs, clones."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import environment, make_project, run

from supertiny.params import core
from supertiny.stage import run_stage

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


# --- drills on the real stages; those of DVC and `run_stage` in general are in test_drills.py


def outs_of(folder):
    """Path and recorded hash of every out of every stage."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for entry in lock.values() for out in entry.get("outs", ())}


def files_of(path):
    """The file, or the files of the folder that have something in them, largest first."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted((f for f in files if f.stat().st_size), key=lambda file: -file.stat().st_size)


def halve(path):
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def replace(path, content):
    path.chmod(0o644)  # DVC's outs may be links to a cache that nobody may write to
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [halve, flip_a_bit])
def test_no_stage_runs_on_an_input_that_is_damaged(project, damage, monkeypatch, capsys):
    monkeypatch.chdir(project)
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    outs = [Path(path) for path in outs_of(project)]
    drilled = set()
    for name, entry in lock.items():
        made = [Path(dep["path"]) for dep in entry["deps"]]
        made = [path for path in made if any(path.is_relative_to(out) for out in outs)]
        _, _, module, *arguments = entry["cmd"].split()
        stem = module.removeprefix("stages.")
        monkeypatch.setattr(sys, "argv", [f"stages/{stem}.py", *arguments])
        for path in made:
            torn = files_of(path)[0]
            whole = torn.read_bytes()
            damage(torn)
            with pytest.raises(SystemExit) as exit_:
                run_stage(lambda _: pytest.fail("it ran"), type(core.load_all()[stem]))
            told = capsys.readouterr().err
            assert exit_.value.code == 2 and "not what the stage" in told, f"{name}, {torn}: {told}"
            replace(torn, whole)
            drilled.add(name)
    # These two alone read nothing that another stage made.
    assert drilled == STAGES - {"fetch", "prepare"}


def test_a_stage_that_refuses_its_input_leaves_its_outs_as_they_are(project):
    weights, made = project / "models/rl/model.safetensors", project / "models/pruned"
    whole, before = weights.read_bytes(), {f: f.read_bytes() for f in files_of(made)}
    halve(weights)
    done = run(project, sys.executable, "-m", "stages.prune", check=False)
    replace(weights, whole)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: models/rl: not what the stage rl wrote (dvc.lock)" in done.stderr
    assert {f: f.read_bytes() for f in files_of(made)} == before


def test_damaged_outs_of_every_stage_come_back_without_a_run(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    recorded = outs_of(folder)
    for number, path in enumerate(recorded):
        for file in files_of(folder / path)[:1]:
            (halve if number % 2 else flip_a_bit)(file)
    done = run(folder, DVC, "repro")
    ran = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running")}
    assert ran == {"report"}  # its pages are in git and not in the cache
    for path in recorded:
        for file in files_of(project / path):
            assert (folder / file.relative_to(project)).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize(
    "stage", ["sft", "rl", "logits", "prune", "distill", "quantize@int4", "evaluate@tiny"]
)
def test_a_long_stage_killed_at_a_random_moment_ends_as_one_that_was_not(project, stage, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    recorded = outs_of(folder)
    again = (DVC, "repro", "--single-item", "--no-run-cache", stage)
    started = time.monotonic()
    process = subprocess.Popen(
        [*again, "--force"], cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(random.uniform(4, 14))
    ended = process.poll() is not None
    print(f"killed after {time.monotonic() - started:.1f} s{', too late' if ended else ''}")
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(folder, *again, *(["--force"] if ended else []))
    assert outs_of(folder) == recorded
    assert changed(folder) == set()
