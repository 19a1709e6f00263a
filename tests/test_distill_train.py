"""Distillation into a cut vocabulary: the right gradient, resumable, the same in two processes."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distilling import CAPTURE, DISPUTED, ROWS, cut_student
from project import environment, make_project, run_stage
from tinygraph import set_param
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny.distill.capture import capture
from supertiny.distill.lessons import load_lessons
from supertiny.distill.logits import capture_of, read
from supertiny.distill.loss import DROPPED, Weights
from supertiny.distill.train import lesson_loss, train, usable
from supertiny.errors import UserError
from supertiny.io import read_json, read_tsv, sha256_file, write_json, write_jsonl
from supertiny.packing import ATTENTION, PackedCollator
from supertiny.params.distill import Distill
from supertiny.task import load_task, load_task_folder

K = CAPTURE.k
PARAMS = Distill(
    seed=1, forward_kl=1.0, tail=10.0, cross_entropy=0.5, epochs=100.0, max_steps=24, batch_size=3,
    candidates=2, easy_loss=0.1, learning_rate=0.01, schedule="cosine", warmup_share=0.0,
    adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, frozen_layers=0, precision="fp32",
    pad_to_multiple=16, save_steps=100, log_steps=1, num_processes=1,
    accelerate_config="",
)  # fmt: skip
WEIGHTS = Path("models/tiny/model.safetensors")
CURVE = Path("metrics/train/distill_loss.tsv")


@pytest.fixture(scope="module")
def store(taught_model, lamps, tmp_path_factory):
    """Captured on five gold answers, a sixth that the teacher disputes, and its own to that."""
    path = tmp_path_factory.mktemp("logits") / "train.safetensors"
    params = dataclasses.replace(CAPTURE, own_share=1.0)
    capture(taught_model, rows(), lamps, params, path)
    return path


@pytest.fixture(scope="module")
def student(taught_model, lamps, tmp_path_factory):
    """A random model with only the tokens of the rows and their answers."""
    return cut_student(taught_model, [*ROWS, DISPUTED], lamps, tmp_path_factory.mktemp("s") / "cut")


def rows():
    return [*ROWS[:5], DISPUTED]


def load(student, teacher, store, task, found=None, k=K):
    return load_lessons(student, teacher, store, k, found or rows(), task)


def run(student, teacher, store, task, folder, **changes):
    """Hash of the weights, metrics and curve of one training run."""
    told = []
    params = dataclasses.replace(PARAMS, **changes)
    lessons = load(student, teacher, store, task).lessons
    train(
        student, lessons, sha256_file(store), params, folder / "state", folder / "out",
        lambda *found: told.extend(found),
    )  # fmt: skip
    return (sha256_file(folder / "out/model.safetensors"), *told)


def test_lessons_say_the_same_in_the_students_tokens(student, taught_model, store, lamps):
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (taught_model, student))
    found = load(student, taught_model, store, lamps)
    captured = list(read(store, capture_of(taught_model, old, lamps, K)))
    assert found.left_out == 0 and [lesson.gold for lesson in found.lessons] == [True] * 6 + [False]
    dropped = 0
    for lesson, row in zip(found.lessons, captured, strict=True):
        answer = [label for label in lesson.labels if label >= 0]
        assert new.convert_ids_to_tokens(answer) == old.convert_ids_to_tokens(row.tokens)
        assert lesson.input_ids[-len(answer) :] == answer
        for new_id, old_id, log_prob, captured_log_prob in zip(
            lesson.teacher_ids.flatten().tolist(), row.ids.flatten().tolist(),
            lesson.teacher_log_probs.flatten().tolist(), row.log_probs.flatten().tolist(),
            strict=True,
        ):  # fmt: skip
            if new_id == DROPPED:
                dropped += 1
                assert old.convert_ids_to_tokens(old_id) not in new.get_vocab()
                assert log_prob == -torch.inf
            else:
                assert new.convert_ids_to_tokens(new_id) == old.convert_ids_to_tokens(old_id)
                assert log_prob == captured_log_prob
    assert dropped > 0
    prompt = lamps.render_prompt(DISPUTED["query"])
    for lesson in found.lessons[-2:]:
        assert new.decode(lesson.input_ids).startswith(new.bos_token + prompt)


def test_a_row_that_was_not_captured_teaches_by_its_gold_answer_alone(
    student, taught_model, store, lamps
):
    found = [*rows(), {**ROWS[0], "id": "new"}]
    lessons = load(student, taught_model, store, lamps, found).lessons
    captured, new = lessons[0], lessons[-1]
    assert (new.input_ids, new.labels, new.gold) == (captured.input_ids, captured.labels, True)
    assert [lesson.captured for lesson in lessons] == [True] * 7 + [False]
    model = AutoModelForCausalLM.from_pretrained(student, attn_implementation=ATTENTION)

    def loss(at, weights):
        row = {"input_ids": new.input_ids, "labels": new.labels, "lesson": at}
        return lesson_loss(model, [row], lessons, PackedCollator(16, 2), weights).total.item()

    assert loss(7, Weights(1, 10, 0)) == 0 < loss(0, Weights(1, 10, 0))
    assert loss(7, Weights(1, 10, 1)) == loss(7, Weights(0, 0, 1)) == loss(0, Weights(0, 0, 1))
    for changes, count in [
        ({}, 8),
        ({"cross_entropy": 0.0}, 7),
        ({"forward_kl": 0.0, "tail": 0.0}, 7),
    ]:
        assert len(usable(lessons, dataclasses.replace(PARAMS, **changes))) == count


def test_a_student_with_the_whole_vocabulary_needs_no_list(tiny_model, taught_model, store, lamps):
    lessons = load(tiny_model, taught_model, store, lamps).lessons
    captured = read(
        store, capture_of(taught_model, AutoTokenizer.from_pretrained(taught_model), lamps, K)
    )
    for lesson, row in zip(lessons, captured, strict=True):
        assert lesson.teacher_ids.tolist() == row.ids.tolist()
        assert [label for label in lesson.labels if label >= 0] == row.tokens.tolist()


def test_a_row_with_a_token_the_student_has_not_is_left_out_and_counted(
    taught_model, lamps, tmp_path
):
    strange = {**ROWS[0], "id": "strange", "query": "throom sting ferbow"}
    capture(taught_model, [*ROWS, strange], lamps, CAPTURE, tmp_path / "store")
    student = cut_student(taught_model, ROWS, lamps, tmp_path / "cut")
    found = load(student, taught_model, tmp_path / "store", lamps, [*ROWS, strange])
    assert found.left_out == 1 and len(found.lessons) == 6


def test_logits_of_another_teacher_prompt_k_or_data_are_refused(
    student, taught_model, tiny_model, store, lamps, tmp_path
):
    with pytest.raises(UserError, match="model_sha256: captured with"):
        load(student, tiny_model, store, lamps)
    other = shutil.copytree(taught_model, tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(UserError, match="tokenizer_sha256: captured with"):
        load(student, other, store, lamps)
    folder = shutil.copytree(lamps.folder, tmp_path / "lamps")
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text.replace("prompt: query", "prompt: signatures"))
    with pytest.raises(UserError, match="prompt_form: captured with 'query'"):
        load(student, taught_model, store, load_task_folder(folder))
    with pytest.raises(UserError, match="k: captured with 16"):
        load(student, taught_model, store, lamps, k=8)
    for found in (ROWS, ROWS[:5]):  # another gold answer to row5; no row5 at all
        with pytest.raises(UserError, match="row5: not in the train rows of this run"):
            load(student, taught_model, store, lamps, found)


def test_a_student_that_is_not_cut_from_the_teacher_is_refused(
    student, taught_model, store, lamps, tmp_path
):
    folder = shutil.copytree(student, tmp_path / "student")
    kept = read_json(folder / "kept_tokens.json")
    swapped = [kept[0], kept[2], kept[1], *kept[3:]]
    for wrong, message in [
        (swapped, "expected ascending ids below 640"),
        ([*kept, 640], "expected ascending ids below 640"),
        (sorted(set(range(640)) - {5}), "does not split row row0"),
    ]:
        write_json(folder / "kept_tokens.json", wrong)
        with pytest.raises(UserError, match=message):
            load(folder, taught_model, store, lamps)
    (folder / "kept_tokens.json").unlink()
    with pytest.raises(UserError, match="does not split row row0"):
        load(folder, taught_model, store, lamps)
    with pytest.raises(UserError, match="nobody: no model there; run `dvc repro prune`"):
        load(tmp_path / "nobody", taught_model, store, lamps)


def dense_loss(model, student, teacher, store, task, weights):
    """The same loss from its definition: one row at a time, every probability written out."""
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (teacher, student))
    total, positions = 0.0, 0
    for row in read(store, capture_of(teacher, old, task, K)):
        query = {found["id"]: found for found in rows()}[row.id.split("#")[0]]["query"]
        prompt = new.encode(new.bos_token + task.render_prompt(query), add_special_tokens=False)
        answer = new.convert_tokens_to_ids(old.convert_ids_to_tokens(row.tokens))
        log_q = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        for at, label in enumerate(answer):
            here = log_q[len(prompt) + at - 1]
            p = torch.zeros(len(here), dtype=torch.float64)
            tokens = old.convert_ids_to_tokens(row.ids[at])
            for token, log_prob in zip(tokens, row.log_probs[at].tolist(), strict=True):
                if token in new.get_vocab():
                    p[new.get_vocab()[token]] = torch.tensor(log_prob, dtype=torch.float64).exp()
            seen = p > 0
            kl = (p[seen] * ((p[seen] / p.sum()).log() - here[seen])).sum()
            own = here.topk(K).indices
            tail = here.exp()[own[~seen[own]]].sum()
            ce = -here[label] if "#" not in row.id else 0.0
            total += weights.forward_kl * kl + weights.tail * tail + weights.cross_entropy * ce
            positions += 1
    return total / positions


@pytest.mark.parametrize(
    "weights", [Weights(1, 10, 0.5), Weights(0, 0, 1), Weights(1, 0, 0), Weights(0, 1, 0)]
)
def test_loss_and_gradient_are_those_of_the_definition(
    student, taught_model, store, lamps, weights
):
    def model(**options):
        return AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64, **options)

    plain, packed = model(), model(attn_implementation=ATTENTION)
    lessons = load(student, taught_model, store, lamps).lessons
    data = [
        {"input_ids": lesson.input_ids, "labels": lesson.labels, "lesson": at}
        for at, lesson in enumerate(lessons)
    ]
    found = lesson_loss(packed, data, lessons, PackedCollator(16, 2), weights).total
    wanted = dense_loss(plain, student, taught_model, store, lamps, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    found.backward()
    wanted.backward()
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in packed.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-5, atol=1e-8)


def test_the_student_learns_and_again_the_same(student, taught_model, store, lamps, tmp_path):
    weights, metrics, curve = run(student, taught_model, store, lamps, tmp_path / "a")
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]
    assert curve[-1]["unseen_loss"] < 0.6 * curve[0]["unseen_loss"]
    assert (metrics["steps"], metrics["rows"], metrics["own_rows"]) == (24, 7, 1)
    assert 0.5 < metrics["mean_teacher_mass"] <= 1
    assert curve[0]["loss"] == pytest.approx(
        curve[0]["forward_kl"] + 10 * curve[0]["tail"] + 0.5 * curve[0]["cross_entropy"], rel=1e-4
    )
    again = run(student, taught_model, store, lamps, tmp_path / "b")
    assert again == (weights, metrics, curve)
    assert not (tmp_path / "a/state").exists(), "checkpoints of a finished run are left"
    names = {path.name for path in (tmp_path / "a/out").iterdir()}
    assert names == {path.name for path in student.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "kept_tokens.json"):
        assert (tmp_path / "a/out" / name).read_bytes() == (student / name).read_bytes()


def test_each_term_alone_trains_another_student(student, taught_model, store, lamps, tmp_path):
    ce_only = {"forward_kl": 0.0, "tail": 0.0}
    kd_only = {"cross_entropy": 0.0}
    found = {
        name: run(student, taught_model, store, lamps, tmp_path / name, **changes)
        for name, changes in [("both", {}), ("ce", ce_only), ("kd", kd_only)]
    }
    assert len({weights for weights, _, _ in found.values()}) == 3
    assert found["ce"][1]["rows"] == 6, "an answer that is not gold teaches nothing without a KL"
    assert found["kd"][1]["rows"] == 7
    first, last = found["ce"][2][0], found["ce"][2][-1]
    assert first["loss"] == pytest.approx(0.5 * first["cross_entropy"], rel=1e-4)
    assert last["cross_entropy"] < 0.6 * first["cross_entropy"]
    first, last = found["kd"][2][0], found["kd"][2][-1]
    assert first["loss"] == pytest.approx(first["forward_kl"] + 10 * first["tail"], rel=1e-4)
    assert last["forward_kl"] < 0.6 * first["forward_kl"]


def test_params_that_do_not_fit_are_users_errors(student, taught_model, store, lamps, tmp_path):
    for changes, message in [
        ({"forward_kl": 0.0, "tail": 0.0, "cross_entropy": 0.0}, "found 0 for each of"),
        ({"frozen_layers": 3}, "distill.frozen_layers: found 3, the model has 2 layers"),
        ({"num_processes": 2}, "distill.batch_size: found 3, expected a multiple of"),
    ]:
        with pytest.raises(UserError, match=message):
            run(student, taught_model, store, lamps, tmp_path, **changes)


@pytest.fixture(scope="module")
def prepared(tiny_model, tmp_path_factory):
    """A smoke project with a teacher, a pruned student, train rows, and captured logits."""
    folder = make_project(tmp_path_factory.mktemp("distill") / "project")
    for key, value in {"max_steps": 16, "epochs": 100.0}.items():
        set_param(folder, "distill", key, value)
    names = ["red lamp", "tall fan", "oak door", "tv", "radio", "kettle"]
    calls = [("turn on", "HassTurnOn"), ("turn off", "HassTurnOff")]
    found = [
        {
            "id": f"{verb}{name}", "query": f"{verb} the {name}",
            "call": {"name": tool, "arguments": {"name": name}},
        }
        for name in names for verb, tool in calls
    ]  # fmt: skip
    write_jsonl(folder / "data/curated/train.jsonl", found)
    shutil.copytree(tiny_model, folder / "models/rl")
    cut_student(tiny_model, found, load_task("home"), folder / "models/pruned")
    run_stage(folder, "logits")
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """The project after a run nobody killed."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "project")
    run_stage(folder, "distill")
    return folder


def test_the_stages_write_what_the_graph_expects(undisturbed):
    assert read_json(undisturbed / "metrics/train/logits.json")["rows"] >= 12
    metrics = read_json(undisturbed / "metrics/train/distill.json")
    assert metrics["steps"] == 16 and metrics["left_out_rows"] + metrics["rows"] >= 12
    curve = read_tsv(undisturbed / CURVE)
    assert [int(point["step"]) for point in curve] == list(range(1, 17))
    assert not any(undisturbed.glob(".supertiny/distill/*"))


def test_a_run_killed_after_a_checkpoint_ends_with_the_same_weights(
    prepared, undisturbed, tmp_path
):
    folder = shutil.copytree(prepared, tmp_path / "project")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.distill"],
        cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not any(folder.glob(".supertiny/distill/*/checkpoint-2/COMPLETE")):
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "models/tiny").exists()
    resumed = run_stage(folder, "distill")
    assert sha256_file(folder / WEIGHTS) == sha256_file(undisturbed / WEIGHTS)
    assert (folder / CURVE).read_text() == (undisturbed / CURVE).read_text()
    assert "/16" in resumed.stderr, "no progress bar to read"
    assert not re.search(r"(?<!\d)1/16", resumed.stderr), "it began anew"


def test_two_processes_take_the_steps_of_one(prepared, tmp_path):
    """In fp32: bf16, where the processor has it, rounds the halves of a batch otherwise."""
    two, one = (shutil.copytree(prepared, tmp_path / str(count)) for count in (2, 1))
    for folder, count in ((two, 2), (one, 1)):
        set_param(folder, "distill", "precision", "fp32")
        set_param(folder, "distill", "num_processes", count)
        run_stage(folder, "distill")
    for found, wanted in zip(read_tsv(two / CURVE), read_tsv(one / CURVE), strict=True):
        for key, value in wanted.items():
            assert float(found[key]) == pytest.approx(float(value), abs=1e-3), key
    models = [AutoModelForCausalLM.from_pretrained(place / "models/tiny") for place in (two, one)]
    for found, wanted in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
    metrics = [
        json.loads((place / "metrics/train/distill.json").read_text()) for place in (two, one)
    ]
    assert metrics[0]["parameters"] == metrics[1]["parameters"]


def test_checkpoints_of_other_logits_are_not_taken_up(
    student, taught_model, store, lamps, tmp_path, monkeypatch
):
    """The name of the folder that a run looks for checkpoints in."""

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr("supertiny.distill.train.load_model", stop)
    lessons = load(student, taught_model, store, lamps).lessons
    names = []
    for digest, seed in [("a", 1), ("a", 1), ("b", 1), ("a", 2)]:
        params = dataclasses.replace(PARAMS, seed=seed)
        with pytest.raises(Stop):
            train(student, lessons, digest, params, tmp_path / "state", tmp_path / "out", stop)
        names.append([path.name for path in (tmp_path / "state").iterdir()])
    assert all(len(found) == 1 for found in names), "what other runs left is removed"
    assert names[0] == names[1] and names[0] != names[2] and names[0] != names[3]
