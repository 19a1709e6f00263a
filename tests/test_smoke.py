"""The whole graph at smoke size, and what DVC does with it: caching, partial re-runs, clones."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import ROOT, environment, make_project, run
from tinygraph import DVC, commit, init_repository

from supertiny.params import core
from supertiny.stage import run_stage

TRAINED = {
    "sft@gold", "curate", "sft@sft", "rl", "logits", "prune", "distill", "export",
    "quantize@int8", "quantize@int4",
    # Those that learn nothing are behind the training too: the rewrites of test come out of curate.
    "evaluate@rules", "evaluate@base", "evaluate@teacher", "evaluate@gold", "evaluate@sft",
    "evaluate@rl", "evaluate@pruned", "evaluate@tiny", "evaluate@fp32",
    "evaluate@int8", "evaluate@int4", "benchmark@fp32", "benchmark@int8", "benchmark@int4",
    "divergence@int8", "divergence@int4", "confidence", "gate", "bundle", "report",
}  # fmt: skip
STAGES = {"fetch", "prepare", "teacher"} | TRAINED
# Some thirty processes, most of which import torch: minutes where the machine has other work.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone-like repository in which `dvc repro` has run once."""
    folder = make_project(tmp_path_factory.mktemp("smoke") / "project")
    init_repository(folder)
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
        (("sft", "learning_rate"), 0.5, {"sft@gold", "sft@sft"}),
        (("evaluate", "few_shot"), 3, {stage for stage in STAGES if stage.startswith("evaluate")}),
        (
            ("benchmark", "usd_per_hour"),
            7.0,
            {"teacher", "benchmark@fp32", "benchmark@int8", "benchmark@int4"},
        ),
        (("teacher", "samples"), 2, {"teacher"}),
        (("curate", "min_grade"), 3, {"curate"}),
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


NOT_RUN = {
    "make test": "this test is a part of it",
    ".venv/bin/dvc remote modify local url s3://bucket/path": "test_remotes.py has a real server",
}


def readme_commands():
    """Its command lines in order, each once: those of its blocks and, between them, of the text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```python.*?```", "", text, flags=re.S)
    found = re.findall(r"^((?:make|\.venv/bin/).*?)(?: +#.*)?$|`((?:make|\.venv/bin/|dvc|git) [^`]+"
                       r"|\.venv/bin/[^`]+)`", text, re.M)  # fmt: skip
    return list(dict.fromkeys(line or code for line, code in found))


def test_the_readmes_commands_run(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copyfile(ROOT / ".dvc/config", folder / ".dvc/config")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "queries.jsonl").write_text('{"query": "dim the lamp to 30"}\n')
    commit(folder, "made")
    params = folder / "params.yaml"
    commands = readme_commands()
    assert len(commands) > 15 and {*NOT_RUN} < {*commands}
    for command in commands:
        if command in NOT_RUN:
            continue
        if command.endswith(" plan"):  # after "Change a value in params.yaml"
            params.write_text(params.read_text().replace("rarest_tools: 5", "rarest_tools: 6"))
        # The environment is set up already; what its stamp is older than does not matter here.
        done = run(
            folder, "bash", "-c", command.replace("make ", "make -o .venv/.stamp "), check=False
        )
        # The smoke model may find no call (1) or be unsure of it (4).
        allowed = {0, 1, 4} if " predict " in command else {0}
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        if command.endswith("dvc repro"):
            assert "Running stage 'gate'" in done.stdout


def test_the_readmes_python_runs(project):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    block = block.replace('"DIR"', '"models/bundle"')
    done = run(project, sys.executable, "-c", block, check=False)
    # The smoke model may find no call.
    assert done.returncode == 0 or "CallError: the answer did not end" in done.stderr, done.stderr


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


def test_no_stage_runs_on_an_input_that_is_damaged(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    outs = [Path(path) for path in outs_of(project)]
    drilled = set()
    for name, entry in lock.items():
        made = [Path(dep["path"]) for dep in entry["deps"]]
        made = [path for path in made if any(path.is_relative_to(out) for out in outs)]
        made = [path for path in made if files_of(path)]  # no test rewrite of an LLM made up
        _, _, module, *arguments = entry["cmd"].split()
        stem = module.removeprefix("stages.")
        monkeypatch.setattr(sys, "argv", [f"stages/{stem}.py", *arguments])
        for damage, path in zip((halve, flip_a_bit), made[:1] + made[-1:], strict=False):
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


def test_damaged_outs_come_back_without_a_run(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    damaged = [
        "models/base",
        "data/queries",
        "models/pruned",
        "models/onnx/int4",
        "reports/report.md",
    ]
    for number, path in enumerate(damaged):
        (halve if number % 2 else flip_a_bit)(files_of(folder / path)[0])
    done = run(folder, DVC, "repro")
    ran = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running")}
    assert ran == {"report"}  # its pages are in git and not in the cache
    for path in outs_of(project):
        for file in files_of(project / path):
            assert (folder / file.relative_to(project)).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize(
    ("stages", "targets"),
    [
        pytest.param({"sft@gold", "sft@sft", "rl"}, ("rl",), id="training"),
        pytest.param(
            {"sft@gold", "sft@sft", "rl", "logits", "prune", "distill", "quantize@int4", "evaluate@tiny"},
            ("quantize@int4", "evaluate@tiny"), id="every-long-stage", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_second_cold_run_that_is_killed_gives_the_same_hashes(project, stages, targets, tmp_path):
    other = make_project(tmp_path / "other")
    init_repository(other)
    killed = set()
    while stage := kill_in_one_of(stages - killed, other, DVC, "repro", *targets):
        killed.add(stage)
        run(other, sys.executable, "-m", "supertiny.cli", "check")  # as `make repro` does
    assert len(killed) > len(stages) / 2  # one that ended just before is not run again
    ran, first = (yaml.safe_load((f / "dvc.lock").read_text())["stages"] for f in (other, project))
    assert ran.keys() > stages
    assert {name: entry["outs"] for name, entry in ran.items()} == {
        name: first[name]["outs"] for name in ran
    }


def kill_in_one_of(stages, folder, *command):
    """kill -9 DVC and all below it at a random moment of the first of the stages that it runs; the
    stage, or None if the command ends well and has run none of them."""
    process = subprocess.Popen(
        command, cwd=folder, env={**environment(), "PYTHONUNBUFFERED": "1"}, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with process:
        for line in process.stdout:
            stage = re.match(r"Running stage '(.+)'", line)
            if stage and stage[1] in stages:
                seconds = random.uniform(0.5, 5)  # most take longer, with what they import
                time.sleep(seconds)
                os.killpg(process.pid, signal.SIGKILL)
                print(f"{stage[1]} killed after {seconds:.1f} s")
                return stage[1]
    assert process.returncode == 0, command
    return None
