"""Reinforcement learning: the right gold, groups that teach, never worse, the same weights twice."""

import dataclasses
import math
import random
import shutil
import statistics
from collections import Counter

import pytest
import torch
from conftest import LESSONS
from lessons import learn
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny import rl
from supertiny.calls import call_from_json
from supertiny.errors import UserError
from supertiny.io import sha256_file
from supertiny.packing import ATTENTION
from supertiny.params.rl import Rl
from supertiny.rewards import ILLEGAL, reward
from supertiny.rollouts import Sampling, generator, grade, prompt_ids, sample_groups
from supertiny.student import TorchStudent
from supertiny.unsettled import gold_losses, least_likely

PARAMS = Rl(
    seed=1, ranked_rows=6, probe_rows=6, group_size=8, temperature=1.0, max_new_tokens=24,
    batch_size=6, steps=12, prompts_per_step=3, sampled_prompts=4, learning_rate=1e-3, beta=0.01,
    frozen_layers=0, precision="fp32", dev_rows=6, eval_steps=4, patience=3, log_steps=1,
)  # fmt: skip
ROWS = [{"id": f"row{number}", **lesson} for number, lesson in enumerate(LESSONS)]
# What the undecided student would as soon say to these; it is sure of the other rows.
ELSE = {
    "row1": {"name": "LightOn", "arguments": {"area": "hall"}},
    "row2": {"name": "Dim", "arguments": {"brightness": 5}},
    "row4": {"name": "LightOn", "arguments": {}},
}
WEIGHTS = "model.safetensors"


def answer_text(call, task, tokenizer):
    return task.render_call(call_from_json(call)) + tokenizer.eos_token


@pytest.fixture(scope="module")
def undecided(taught_model, lamps, tmp_path_factory):
    """The taught model after it has seen other answers to three of its lessons, and liked them."""
    out = tmp_path_factory.mktemp("models") / "undecided"
    shutil.copytree(taught_model, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    pairs = [(row, row["call"]) for row in ROWS for _ in range(4)]
    pairs += [(row, ELSE[row["id"]]) for row in ROWS if row["id"] in ELSE for _ in range(6)]
    rows = []
    for row, call in pairs:
        ids = prompt_ids(row["query"], lamps, tokenizer)
        answer = tokenizer.encode(answer_text(call, lamps, tokenizer), add_special_tokens=False)
        rows.append((ids + answer, [-100] * len(ids) + answer))
    learn(out, rows, steps=60, learning_rate=2e-3)
    return out


@pytest.fixture
def train(undecided, lamps, tmp_path):
    """Runs the stage's work on the undecided model, every output in a folder of its own."""

    def run(name="run", base=undecided, params=PARAMS, rows=ROWS, **changes):
        out = tmp_path / name / "model"
        outcome = rl.train(
            base=base, train_rows=rows, dev_rows=ROWS, task=lamps,
            params=dataclasses.replace(params, **changes),
            state=tmp_path / name / "state", out=out,
        )  # fmt: skip
        return outcome, out

    return run


@pytest.fixture
def student(undecided, lamps):
    return TorchStudent(undecided, lamps)


@pytest.fixture
def batches(monkeypatch):
    """What the trainer got to train on in each step."""
    seen = []
    score = rl.GroupTrainer._generate_and_score_completions

    def spy(self, inputs):
        seen.append(score(self, inputs))
        return seen[-1]

    monkeypatch.setattr(rl.GroupTrainer, "_generate_and_score_completions", spy)
    return seen


def test_samples_have_the_models_own_distribution(student, undecided, lamps):
    """Whole answers to padded prompts, against their probability by plain forward passes."""
    rows, temperature, count = [ROWS[2], ROWS[4], ROWS[1]], 1.3, 3000
    draws = generator(student.device, 7)
    groups = sample_groups(student, rows, Sampling(count, temperature, 24), 3, draws)
    model = AutoModelForCausalLM.from_pretrained(undecided, dtype=torch.float32).to(student.device)
    checked = 0
    for row, group in zip(rows, groups, strict=True):
        prompt = prompt_ids(row["query"], lamps, student.tokenizer)
        for answer, times in Counter(map(tuple, group.answers)).items():
            if times < 30:
                continue
            ids = torch.tensor([prompt + list(answer)], device=student.device)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
            chosen = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
            share = chosen.sum().exp().item()
            assert abs(times / count - share) < 4.5 * math.sqrt(share * (1 - share) / count)
            checked += 1
    assert checked >= 6, "too few different answers to compare anything"


def test_samples_are_drawn_again_from_the_same_key_alone(student):
    def draw(*key):
        randomness = generator(student.device, *key)
        groups = sample_groups(student, ROWS, Sampling(4, 1.0, 24), 2, randomness)
        return [group.answers for group in groups]

    assert draw(1, 2, 3) == draw(1, 2, 3) != draw(1, 2, 4)


def test_an_answer_without_an_end_is_illegal(student, lamps):
    tokenizer, row = student.tokenizer, ROWS[0]
    ids = tokenizer.encode(answer_text(row["call"], lamps, tokenizer), add_special_tokens=False)
    assert grade(ids, row["query"], row["call"], lamps, tokenizer) == 1
    assert grade(ids[:-1], row["query"], row["call"], lamps, tokenizer) == ILLEGAL


def test_rows_are_ranked_by_how_likely_gold_is(undecided, lamps):
    tokenizer = AutoTokenizer.from_pretrained(undecided)
    packed = AutoModelForCausalLM.from_pretrained(
        undecided, dtype=torch.float32, attn_implementation=ATTENTION
    )
    model = AutoModelForCausalLM.from_pretrained(undecided, dtype=torch.float32)
    wanted = []
    for row in ROWS:
        prompt = prompt_ids(row["query"], lamps, tokenizer)
        text = answer_text(row["call"], lamps, tokenizer)
        answer = tokenizer.encode(text, add_special_tokens=False)
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])
        wanted.append(-chosen.sum().item())
    assert gold_losses(packed, ROWS, lamps, tokenizer) == pytest.approx(wanted, abs=1e-4)
    hardest = least_likely(packed, ROWS, lamps, tokenizer, 3)
    assert {row["id"] for row in hardest} == set(ELSE)


def test_rewards_are_those_of_each_rows_own_gold(train, batches, lamps, undecided):
    train(steps=4)
    tokenizer = AutoTokenizer.from_pretrained(undecided)
    golds = {
        tokenizer.decode(prompt_ids(row["query"], lamps, tokenizer)): row for row in ROWS
    }  # fmt: skip
    for batch in batches:
        rewards = []
        for row in range(len(batch["advantages"])):
            mask = {key: batch[f"{key}_mask"][row].bool() for key in ("prompt", "completion")}
            lesson = golds[tokenizer.decode(batch["prompt_ids"][row][mask["prompt"]])]
            answer = batch["completion_ids"][row][mask["completion"]].tolist()
            ended = answer[-1] == tokenizer.eos_token_id
            text = tokenizer.decode(answer[:-1])
            gold = call_from_json(lesson["call"])
            rewards.append(reward(text, lesson["query"], gold, lamps) if ended else ILLEGAL)
        groups = torch.tensor(rewards).view(-1, PARAMS.group_size)
        assert (groups.std(1) > 0).all(), "a group without spread was trained on"
        assert len(groups) <= PARAMS.prompts_per_step
        scaled = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        torch.testing.assert_close(batch["advantages"].cpu(), scaled.flatten())
    assert len(batches) == 4


def test_only_inputs_the_student_is_undecided_on_are_kept(train, student):
    draws = generator(student.device, PARAMS.seed, rl._PROBING)
    sampling = Sampling(PARAMS.group_size, PARAMS.temperature, PARAMS.max_new_tokens)
    drawn = random.Random(PARAMS.seed).sample(ROWS, len(ROWS))
    groups = sample_groups(student, drawn, sampling, PARAMS.batch_size, draws)
    wanted = {
        group.row["id"]: statistics.fmean(group.rewards)
        for group in groups
        if len(set(group.rewards)) > 1 and 0.01 <= statistics.fmean(group.rewards) <= 0.99
    }
    assert 0 < len(wanted) < len(ROWS)
    outcome, _ = train(steps=4)
    found = {row["id"]: row["mean_reward"] for row in outcome.unsettled}
    assert found == pytest.approx(wanted, abs=1e-6)
    assert outcome.metrics["unsettled_rows"] == len(wanted)


def test_a_step_whose_groups_are_all_flat_has_no_token_that_counts(train, batches, monkeypatch):
    sample = rl.sample_groups

    def flatten(*args):
        return [
            dataclasses.replace(group, answers=[group.answers[0]] * 8, rewards=[1.0] * 8)
            for group in sample(*args)
        ]

    start = rl.GroupTrainer.__init__

    def from_here(self, **kwargs):
        monkeypatch.setattr(rl, "sample_groups", flatten)
        start(self, **kwargs)

    monkeypatch.setattr(rl.GroupTrainer, "__init__", from_here)
    outcome, _ = train(steps=4, beta=10.0)
    assert len(batches) == 4
    assert all(batch["completion_mask"].sum() == 0 for batch in batches)
    assert [point["flat_share"] for point in outcome.curve[1:]] == [1.0] * 4
    assert outcome.metrics["kept_sft"] == 1


def test_log_probabilities_and_gradients_are_those_of_each_row_alone(
    student, undecided, lamps, tmp_path
):
    """Packed rows, equal ones computed once, against plain forward passes of padded rows."""
    params = dataclasses.replace(PARAMS, temperature=0.7)
    policy, student = rl._load(undecided, lamps, params)
    trainer = rl.GroupTrainer(
        student=student, dev=ROWS, params=params, model=policy, reward_funcs=lambda **_: [],
        args=rl._arguments(params, tmp_path), processing_class=student.tokenizer,
        train_dataset=rl._dataset(ROWS, lamps, student.tokenizer, params),
        eval_dataset=rl._dataset(ROWS, lamps, student.tokenizer, params),
    )  # fmt: skip
    prompts, answers = [[1, 40, 50], [1, 60], [1, 40, 50], [1, 60]], [[70, 71, 2], [80, 2]] * 2
    answers[3] = [70, 2]
    ids = torch.tensor([[2] * (3 - len(p)) + p + a + [2] * (3 - len(a))
                        for p, a in zip(prompts, answers, strict=True)])  # fmt: skip
    mask = torch.tensor([[0] * (3 - len(p)) + [1] * len(p + a) + [0] * (3 - len(a))
                         for p, a in zip(prompts, answers, strict=True)])  # fmt: skip
    ids, mask = ids.to(student.device), mask.to(student.device)
    found, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, 3, compute_entropy=True
    )
    model = AutoModelForCausalLM.from_pretrained(undecided, dtype=torch.float32).to(student.device)
    weights = torch.tensor([[1.0, 2, 3], [4, 5, 0], [6, 7, 8], [9, 10, 0]], device=student.device)
    total = 0
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        one = torch.tensor([prompt + answer], device=student.device)
        logits = model(input_ids=one).logits[0, len(prompt) - 1 : -1] / 0.7
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.gather(-1, one[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(found[row, : len(answer)], chosen, rtol=1e-4, atol=1e-5)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(entropies[row, : len(answer)], entropy, rtol=1e-4, atol=1e-5)
        total = total + (chosen * weights[row, : len(answer)]).sum()
    total.backward()
    (found * weights).sum().backward()
    wanted = dict(model.named_parameters())
    for name, weight in policy.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reward_grows_and_the_better_model_ships(train, undecided, lamps, precision):
    outcome, out = train(steps=20, patience=10, learning_rate=3e-4, precision=precision)
    metrics = outcome.metrics
    assert metrics["kept_sft"] == 0 and metrics["best_step"] > 0
    rewards = [point["reward"] for point in outcome.curve[1:]]  # of a few samples each, so noisy
    assert statistics.fmean(rewards[-8:]) > statistics.fmean(rewards[:2]) + 0.1
    assert metrics["best_dev_exact_match"] > metrics["sft_dev_exact_match"]
    shipped = rl.exact_match(TorchStudent(out, lamps, precision=precision), ROWS, PARAMS)
    assert shipped == metrics["best_dev_exact_match"], "not the checkpoint that was measured"
    measured = {
        p["step"]: p["dev_exact_match"] for p in outcome.curve if p["dev_exact_match"] != ""
    }
    assert measured[0] == metrics["sft_dev_exact_match"]
    assert max(measured.values()) == measured[metrics["best_step"]] == shipped


def test_a_run_that_destroys_the_model_ships_the_fine_tuned_one(train, undecided):
    outcome, out = train(learning_rate=1.0, patience=2)
    assert outcome.metrics["kept_sft"] == 1 and outcome.metrics["best_step"] == 0
    assert outcome.metrics["best_dev_exact_match"] == outcome.metrics["sft_dev_exact_match"] > 0
    assert outcome.curve[-1]["dev_exact_match"] == 0, "it was not destroyed"
    assert outcome.metrics["steps"] == 8, "two checkpoints without a gain, then it stops"
    assert {file.name: sha256_file(file) for file in undecided.iterdir()} == {
        file.name: sha256_file(file) for file in out.iterdir()
    }


def test_without_an_unsettled_input_the_fine_tuned_model_goes_on(train, tiny_model):
    outcome, out = train(base=tiny_model)  # random weights: every answer is illegal
    assert outcome.unsettled == [] and outcome.metrics["steps"] == 0
    assert outcome.metrics["kept_sft"] == 1 and outcome.metrics["probe_reward"] == -1
    assert [point["step"] for point in outcome.curve] == [0]
    assert sha256_file(out / WEIGHTS) == sha256_file(tiny_model / WEIGHTS)


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    train, batches, monkeypatch, tmp_path
):
    whole, wanted = train("whole", steps=12)
    again, same = train("again", steps=12)
    assert sha256_file(same / WEIGHTS) == sha256_file(wanted / WEIGHTS)
    assert again == whole
    assert whole.metrics["kept_sft"] == 0, "copied weights would prove nothing"
    step = rl.GroupTrainer.training_step

    def kill_at_7(self, *args):
        if self.state.global_step == 6:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(rl.GroupTrainer, "training_step", kill_at_7)
    with pytest.raises(Killed):
        train("killed", steps=12)
    monkeypatch.setattr(rl.GroupTrainer, "training_step", step)
    monkeypatch.setattr(rl, "least_likely", None)  # the probe is not made again
    batches.clear()
    torch.rand(3)
    outcome, out = train("killed", steps=12)
    assert len(batches) == 8, "it went on after step 4"
    assert sha256_file(out / WEIGHTS) == sha256_file(wanted / WEIGHTS)
    assert outcome == whole
    assert not (tmp_path / "killed/state").exists()


def test_a_run_killed_after_its_last_checkpoint_trains_no_more(train, batches, monkeypatch):
    whole, wanted = train("whole", steps=8, patience=1, learning_rate=1.0)
    assert whole.metrics["steps"] == 4, "it stopped early"
    ship = rl._ship
    monkeypatch.setattr(rl, "_ship", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train("killed", steps=8, patience=1, learning_rate=1.0)
    assert batches
    monkeypatch.setattr(rl, "_ship", ship)
    batches.clear()
    outcome, out = train("killed", steps=8, patience=1, learning_rate=1.0)
    assert outcome == whole and not batches
    assert sha256_file(out / WEIGHTS) == sha256_file(wanted / WEIGHTS)


def test_params_that_contradict_each_other_are_a_users_error(train):
    with pytest.raises(UserError, match="rl.steps: found 10, expected a multiple of"):
        train(steps=10)
    with pytest.raises(UserError, match="rl.sampled_prompts: found 2, expected at least"):
        train(sampled_prompts=2)
    with pytest.raises(UserError, match="rl.frozen_layers: found 3, the model has 2 layers"):
        train(frozen_layers=3)


def test_frozen_layers_stay_as_they_are(train, undecided):
    outcome, out = train(steps=20, frozen_layers=1)
    assert outcome.metrics["kept_sft"] == 0
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (undecided, out)
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if ".layers.0." in name or "embed" in name} <= same
    assert not any(".layers.1." in name for name in same)
