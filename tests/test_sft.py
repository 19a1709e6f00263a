"""Fine-tuning: loss on answers only, the same weights from a killed and an undisturbed run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from project import environment, make_project, run_stage
from tinygraph import set_param
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny import packing
from supertiny.io import read_json, read_tsv, sha256_file
from supertiny.packing import ATTENTION, IGNORED, PackedCollator
from supertiny.sft import answer_losses, encode_row, hardest
from supertiny.task import load_task

WEIGHTS = "models/gold/model.safetensors"
ROW = {
    "query": "turn on the red lamp",
    "call": {"name": "HassTurnOn", "arguments": {"name": "red lamp"}},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A smoke project that has run fetch and prepare."""
    folder = make_project(tmp_path_factory.mktemp("sft") / "project")
    run_stage(folder, "fetch")
    run_stage(folder, "prepare")
    return folder


@pytest.fixture
def project(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "project")


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """Hash of the weights and the loss curve of a run nobody killed."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "project")
    run_stage(folder, "sft", "gold")
    curve = (folder / "metrics/train/gold_loss.tsv").read_text()
    return folder, sha256_file(folder / WEIGHTS), curve


def kill_after(folder, ready):
    """Start the stage and kill -9 its whole process group as soon as ``ready()`` is true."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sft", "gold"],
        cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_killed_after_a_checkpoint_ends_with_the_same_weights(project, undisturbed):
    kill_after(project, lambda: any(project.glob(".supertiny/gold/*/checkpoint-4/COMPLETE")))
    assert not (project / "models/gold").exists()
    resumed = run_stage(project, "sft", "gold")
    assert sha256_file(project / WEIGHTS) == undisturbed[1]
    assert (project / "metrics/train/gold_loss.tsv").read_text() == undisturbed[2]
    assert re.search(r"\d+/12", resumed.stderr), "no progress bar to read"
    assert not re.search(r"(?<!\d)[123]/12", resumed.stderr), "it began anew"
    assert not any(project.glob(".supertiny/gold/*")), "checkpoints of a finished run are left"


def test_a_torn_checkpoint_is_not_resumed_from(project, undisturbed):
    kill_after(project, lambda: any(project.glob(".supertiny/gold/*/checkpoint-4/COMPLETE")))
    checkpoint = max(project.glob(".supertiny/gold/*/checkpoint-*"))
    (checkpoint / "COMPLETE").unlink(missing_ok=True)
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    run_stage(project, "sft", "gold")
    assert sha256_file(project / WEIGHTS) == undisturbed[1]


def test_other_params_do_not_take_up_an_old_checkpoint(project, undisturbed):
    kill_after(project, lambda: any(project.glob(".supertiny/gold/*/checkpoint-4/COMPLETE")))
    params = project / "params.yaml"
    text = params.read_text()
    assert "seed: 1\n  epochs" in text
    params.write_text(text.replace("seed: 1\n  epochs", "seed: 2\n  epochs"))
    run_stage(project, "sft", "gold")
    params.write_text(text)
    run_stage(project, "sft", "gold")
    assert sha256_file(project / WEIGHTS) == undisturbed[1]


def test_other_code_does_not_take_up_an_old_checkpoint(project, undisturbed):
    kill_after(project, lambda: any(project.glob(".supertiny/gold/*/checkpoint-4/COMPLETE")))
    with (project / "supertiny/packing.py").open("a") as file:
        file.write("# edited\n")
    anew = run_stage(project, "sft", "gold")
    assert re.search(r"(?<!\d)1/12", anew.stderr), "steps of the code before were taken over"
    assert sha256_file(project / WEIGHTS) == undisturbed[1]


def test_the_model_learns_and_says_how_it_was_trained(undisturbed):
    folder = undisturbed[0]
    losses = [float(line.split("\t")[1]) for line in undisturbed[2].splitlines()[1:]]
    assert losses[-1] < losses[0] - 0.1
    metrics = read_json(folder / "metrics/train/gold.json")
    assert metrics["steps"] == 12 and metrics["rows"] == 300
    assert not any("time" in key or "second" in key for key in metrics)


def test_prompt_tokens_carry_no_loss(prepared):
    tokenizer = AutoTokenizer.from_pretrained(prepared / "models/base")
    row = encode_row(ROW, load_task("home"), tokenizer)
    answer = [label for label in row["labels"] if label != IGNORED]
    assert tokenizer.decode(answer) == " on\n name red lamp<|im_end|>"
    prompt = row["input_ids"][: len(row["input_ids"]) - len(answer)]
    assert tokenizer.decode(prompt) == "<|im_start|> turn on the red lamp\n"
    assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)


# Rows as one batch, each alone, and the longer ones by the fused kernel.
@pytest.mark.parametrize(("short", "long"), [(128, 1024), (0, 1024), (0, 10)])
def test_the_loss_is_the_mean_cross_entropy_of_each_rows_answer(prepared, monkeypatch, short, long):
    """Packed rows against the plain definition, one row at a time, in float64; gradients too."""
    monkeypatch.setattr(packing, "SHORT", short)
    monkeypatch.setattr(packing, "LONG", long)

    def load(**options):
        base = prepared / "models/base"
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, **options)

    model, packed = load(), load(attn_implementation=ATTENTION)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for prompt, length in [(5, 14), (3, 9), (8, 12)]:
        ids = torch.randint(3, 600, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    batch = PackedCollator(multiple=16, pad_id=2)(rows)
    assert batch["input_ids"].shape == (1, 48)
    losses = answer_losses(packed, batch)
    loss = losses.mean()
    terms = []
    for row in rows:
        log_probs = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        answer = [at for at, label in enumerate(row["labels"]) if label != IGNORED]
        terms += [-log_probs[at - 1, row["input_ids"][at]] for at in answer]
    torch.testing.assert_close(losses, torch.stack(terms).float(), rtol=1e-5, atol=1e-6)
    loss.backward()
    torch.stack(terms).mean().backward()
    wanted = dict(model.named_parameters())
    for name, weight in packed.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=1e-4, atol=1e-7)


def test_frozen_layers_stay_as_they_are(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("frozen_layers: 0", "frozen_layers: 1"))
    run_stage(project, "sft", "gold")
    before = AutoModelForCausalLM.from_pretrained(project / "models/base").state_dict()
    after = AutoModelForCausalLM.from_pretrained(project / "models/gold").state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in same if ".layers.0." in name} == {
        name for name in before if ".layers.0." in name
    }
    assert not any(".layers.1." in name for name in same)


def test_lora_is_merged_into_a_plain_model(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("method: full", "method: lora"))
    run_stage(project, "sft", "gold")
    names = {path.name for path in (project / "models/gold").iterdir()}
    assert "model.safetensors" in names and not any("adapter" in name for name in names)
    before = AutoModelForCausalLM.from_pretrained(project / "models/base").state_dict()
    after = AutoModelForCausalLM.from_pretrained(project / "models/gold").state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )


def test_two_processes_take_the_steps_of_one(prepared, tmp_path):
    """In fp32: bf16, where the processor has it, rounds the halves of a batch otherwise."""
    curves = []
    for count in (2, 1):
        folder = shutil.copytree(prepared, tmp_path / str(count))
        set_param(folder, "sft", "precision", "fp32")
        set_param(folder, "sft", "num_processes", count)
        run_stage(folder, "sft", "gold")
        curves.append(read_tsv(folder / "metrics/train/gold_loss.tsv"))
    for found, wanted in zip(*curves, strict=True):
        for key, value in wanted.items():
            assert float(found[key]) == pytest.approx(float(value), abs=1e-3), key


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused(project):
    set_param(project, "sft", "num_processes", 3)
    done = run_stage(project, "sft", "gold", check=False)
    assert done.returncode == 2
    assert "sft.batch_size: found 8, expected a multiple of sft.num_processes, 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_base_model_is_a_users_error(project):
    shutil.rmtree(project / "models/base")
    done = run_stage(project, "sft", "gold", check=False)
    assert done.returncode == 2
    assert "models/base: no model there; run `dvc repro fetch`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_at_the_same_time_is_refused(project):
    set_param(project, "sft", "gold_max_steps", 0)
    set_param(project, "sft", "epochs", 100)
    first = subprocess.Popen(
        [sys.executable, "-m", "stages.sft", "gold"],
        cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        lock = project / ".supertiny/locks/sft-gold"
        while not (lock.is_file() and lock.read_text()):
            assert first.poll() is None
            time.sleep(0.05)
        done = run_stage(project, "sft", "gold", check=False)
        assert done.returncode == 2 and "already running (process" in done.stderr
    finally:
        first.kill()
        first.wait()


def edit_during_run(project, module):
    """Exit code and errors of the stage, with a line added to a module once it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sft", "gold"],
        cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lock = project / ".supertiny/locks/sft-gold"
    while not lock.is_file():
        assert process.poll() is None
        time.sleep(0.05)
    with (project / module).open("a") as file:
        file.write("# edited\n")
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


def test_source_edited_during_the_run_is_refused(project):
    code, errors = edit_during_run(project, "supertiny/task.py")
    assert code == 2
    assert "source changed while the stage ran" in errors and "supertiny/task.py" in errors


def test_an_edit_of_another_stages_params_does_not_cost_the_run(project, undisturbed):
    code, errors = edit_during_run(project, "supertiny/params/distill.py")
    assert code == 0, errors
    assert sha256_file(project / WEIGHTS) == undisturbed[1]


def test_a_step_trains_on_the_hardest_candidates_and_scores_no_more_than_it_must():
    asked = []

    def score(rows):
        asked.append(list(rows))
        return [float(row) for row in rows]

    picked, losses = hardest([0, 5, 0, 2, 9, 0, 7, 8], score, size=2, easy=1)
    assert picked == [5, 2] and asked == [[0, 5], [0, 2]] and losses == [0, 5, 0, 2]
    asked.clear()
    picked, losses = hardest([0.5, 0, 0, 0.7, 0, 3], score, size=2, easy=1)
    assert picked == [0.7, 3] and len(losses) == 6, (
        "too few hard rows: all scored, the hardest taken"
    )


def test_the_curve_tells_the_loss_on_unseen_rows_from_that_on_the_rows_picked(undisturbed):
    header, *lines = [line.split("\t") for line in undisturbed[2].splitlines()]
    points = [dict(zip(header, map(float, line), strict=True)) for line in lines]
    assert all(point["unseen_loss"] != point["loss"] for point in points)
    assert all(point["hard_share"] == 0 for point in points), "no answer is as unlikely as that"
