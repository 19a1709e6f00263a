"""Reinforcement learning with TRL's GRPO on the inputs the fine-tuned student is undecided on.

Rewards are verifiable (`supertiny.rewards`), KL holds the student to what it was, and a checkpoint
ships only if it has more of dev exactly right than the fine-tuned student; else that one goes on.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from supertiny.calls import call_from_json
from supertiny.conversation import question
from supertiny.errors import CallError, UserError
from supertiny.io import read_json, replace_folder, write_json
from supertiny.packing import IGNORED, PackedCollator, answer_logits
from supertiny.params.rl import Rl
from supertiny.precision import use_bf16
from supertiny.rollouts import Group, Sampling, generator, grade, sample_groups
from supertiny.student import TorchStudent
from supertiny.task import Task
from supertiny.training import (
    MarkComplete,
    check_layers,
    checkpoint_folder,
    freeze_layers,
    load_model,
    save_model,
)
from supertiny.unsettled import least_likely, unsettled

CURVE = (
    "step", "reward", "reward_std", "completion_length", "kl", "flat_share", "dev_exact_match",
)  # fmt: skip
_PROBING, _ORDERING, _TRAINING = range(3)  # what a generator's draws are for
_DEV = "exact_match"


@dataclass(frozen=True)
class Outcome:
    """What a run leaves besides the model: flat metrics without times, curve, unsettled inputs."""

    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    unsettled: list[dict[str, Any]]


def train(
    base: Path,
    train_rows: list[dict[str, Any]],
    dev_rows: list[dict[str, Any]],
    task: Task,
    params: Rl,
    state: Path,
    out: Path,
) -> Outcome:
    """Train the model in ``base`` and write the best checkpoint, or ``base`` itself, to ``out``.

    Args:
        state: folder for the probe's answers and for checkpoints, outside DVC's outs; a run with
            the same base, rows and params goes on from what is there, another run starts anew.

    Raises:
        UserError: ``base`` is no model folder, or params contradict each other.
    """
    if not (base / "config.json").is_file():
        raise UserError(f"{base}: no model there; run `dvc repro sft` or `dvc pull`")
    _check(params)
    looked_at = random.Random(params.seed).sample(
        train_rows, min(params.ranked_rows, len(train_rows))
    )
    dev = dev_rows[: params.dev_rows]
    folder = _run_folder(state, base, [*looked_at, *dev], task, params)
    policy, student = _load(base, task, params)
    groups, sft_score = _probe(folder / "probe.json", policy, student, looked_at, dev, params)
    picked = unsettled(groups)
    found: dict[str, Any] = {
        "ranked_rows": len(looked_at),
        "probed_rows": len(groups),
        "probe_reward": _mean(group.mean for group in groups),
        "probe_spread": _mean(group.spread for group in groups),
        "unsettled_rows": len(picked),
        "unsettled_share": round(len(picked) / len(groups), 6),
        "base_reward": _mean(group.mean for group in picked or groups),
        "base_spread": _mean(group.spread for group in picked or groups),
        "dev_rows": len(dev),
        "sft_dev_exact_match": sft_score,
        "bf16": int(use_bf16(params.precision)),
    }
    curve = [_start_of_curve(picked or groups, len(picked) / len(groups), sft_score)]
    finished = TrainerState(best_metric=sft_score)
    if picked:
        finished = _run(base, policy, student, picked, dev, sft_score, params, folder)
        curve += _curve(finished.log_history)
    _ship(base, finished.best_model_checkpoint, out)
    shutil.rmtree(state)  # the finished model is an out now; a new run must not find half of an old
    return Outcome(found | _gains(finished, curve), curve, [_described(group) for group in picked])


def exact_match(student: TorchStudent, rows: Sequence[dict[str, Any]], params: Rl) -> float:
    """Share of rows whose greedy answer means the same as gold."""
    queries = [question(row) for row in rows]
    answers = student.answers(queries, params.max_new_tokens, params.batch_size)
    right = [_is_gold(student.task, *pair) for pair in zip(answers, rows, strict=True)]
    return round(statistics.fmean(right), 6)


def _is_gold(task: Task, answer: str, row: dict[str, Any]) -> bool:
    task = task.of(row)
    try:
        return task.equivalent(task.parse_call(answer, row["query"]), call_from_json(row["call"]))
    except CallError:
        return False


class GroupTrainer(GRPOTrainer):
    """`GRPOTrainer` that samples with `supertiny.rollouts` and pays for nothing twice.

    TRL's own generation reads a prompt once for each of its samples; outside CUDA its loss scores
    every position of every sample, padding and prompts too, over the whole vocabulary. Here rows
    are packed, the head runs on answers only, and equal samples of a group are computed once: their
    loss and gradient are the same, and of a nearly settled student's answers most are.
    """

    def __init__(
        self, *, student: TorchStudent, dev: list[dict[str, Any]], params: Rl, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.student = student
        self.dev = dev
        self.params = params
        self.pack = PackedCollator(1, student.tokenizer.pad_token_id)
        self.sampled: list[list[int]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # Of the groups sampled for this step, those that teach: TRL would let the KL term of the
        # others move the weights and count their tokens in the mean.
        size = self.params.group_size
        _copy_weights(self.model, self.student)
        rows = [json.loads(row["row"]) for row in inputs[::size]]
        groups = sample_groups(
            self.student, rows, _sampling(self.params), len(rows), self._randomness()
        )
        self._log_groups(groups)
        spread = [at for at, group in enumerate(groups) if group.spread > 0]
        kept = spread[: self.params.prompts_per_step] or [0]
        self.sampled = [answer for at in kept for answer in groups[at].answers]
        found = super()._generate_and_score_completions(
            [inputs[at * size + number] for at in kept for number in range(size)]
        )
        if not spread:  # a step needs a batch: this one has no token that counts
            found["completion_mask"] = torch.zeros_like(found["completion_mask"])
        return found

    def _randomness(self) -> torch.Generator:
        # Of the step alone: a run that goes on from a checkpoint draws what it would have drawn.
        step = self.state.global_step
        return generator(self.student.device, self.params.seed, _TRAINING, step)

    def _log_groups(self, groups: Sequence[Group]) -> None:
        found = {
            "group_reward": statistics.fmean(group.mean for group in groups),
            "group_spread": statistics.fmean(group.spread for group in groups),
            "group_flat": statistics.fmean(group.spread == 0 for group in groups),
            "group_tokens": _tokens(groups),
        }
        for name, value in found.items():
            self._metrics["train"][name].append(value)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # TRL's lets the tokenizer add special tokens; the prompt has its start token already.
        tokenizer = self.student.tokenizer
        ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        return ids, None, {}

    def _generate_single_turn(self, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self.sampled, None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probabilities, and entropies, of the answers' tokens: shape (rows, logits_to_keep)."""
        ids, seen = input_ids.tolist(), attention_mask.tolist()
        lengths = attention_mask[:, -logits_to_keep:].sum(1).tolist()
        rows = [
            (tuple(compress(row, mask)), length)
            for row, mask, length in zip(ids, seen, lengths, strict=True)
        ]
        distinct = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        log_probs, entropies = self._answer_log_probs(model, list(distinct), compute_entropy)
        which = torch.tensor([distinct[row] for row in rows], device=log_probs.device)
        counts = [length for _, length in distinct]

        def spread_out(values: torch.Tensor) -> torch.Tensor:
            padded = pad_sequence(list(values.split(counts)), batch_first=True)
            padded = torch.nn.functional.pad(padded, (0, logits_to_keep - padded.shape[1]))
            return padded[which]

        return spread_out(log_probs), spread_out(entropies) if compute_entropy else None, None

    def _answer_log_probs(
        self, model: Any, rows: list[tuple[tuple[int, ...], int]], entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each answer token of the rows, in order: shape (answer tokens,) each."""
        batch = self.pack(
            [
                {
                    "input_ids": list(ids),
                    "labels": [IGNORED] * (len(ids) - length) + list(ids[len(ids) - length :]),
                }
                for ids, length in rows
            ]
        )
        logits, targets = answer_logits(model, batch)
        log_probs = (logits.float() / self.temperature).log_softmax(-1)
        chosen = log_probs.gather(-1, targets[:, None])[:, 0]
        if not entropy:
            return chosen, chosen
        with torch.no_grad():
            return chosen, -(log_probs.exp() * log_probs).sum(-1)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Exact match of the weights as they are on dev; picks the checkpoint."""
        # TRL logs what it has gathered for training when anything is logged in training mode.
        self.model.eval()
        _copy_weights(self.model, self.student)
        metrics = {f"eval_{_DEV}": exact_match(self.student, self.dev, self.params)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _StopWithoutGain(TrainerCallback):
    """Counts only a checkpoint better than the fine-tuned student as a best one, and stops in time."""

    def __init__(self, sft_score: float, params: Rl) -> None:
        self.sft_score = sft_score
        self.params = params

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.best_metric is None:
            state.best_metric = self.sft_score

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = _is_over(state, self.params)


def _is_over(state: TrainerState, params: Rl) -> bool:
    since = state.global_step - (state.best_global_step or 0)
    return state.global_step >= params.steps or since >= params.patience * params.eval_steps


def _check(params: Rl) -> None:
    if params.steps % params.eval_steps:
        raise UserError(
            f"rl.steps: found {params.steps}, expected a multiple of rl.eval_steps, "
            f"{params.eval_steps}: the steps after the last checkpoint would be lost"
        )
    if params.sampled_prompts < params.prompts_per_step:
        raise UserError(
            f"rl.sampled_prompts: found {params.sampled_prompts}, expected at least "
            f"rl.prompts_per_step, {params.prompts_per_step}"
        )


def _run_folder(
    state: Path, base: Path, rows: list[dict[str, Any]], task: Task, params: Rl
) -> Path:
    texts = [task.signatures(), *(json.dumps(row, sort_keys=True) for row in rows)]
    # Its type asks for the params of fine-tuning, of which it reads no single one.
    return checkpoint_folder(state, base, Dataset.from_dict({"text": texts}), params)


def _load(base: Path, task: Task, params: Rl) -> tuple[PreTrainedModel, TorchStudent]:
    """The model to train, and a student that answers with its weights."""
    policy = load_model(base)
    check_layers(base, params.frozen_layers, "rl.frozen_layers")
    freeze_layers(policy, params.frozen_layers)
    student = TorchStudent(base, task, precision=params.precision)
    policy.to(student.device)
    return policy, student


@torch.no_grad()
def _copy_weights(policy: PreTrainedModel, student: TorchStudent) -> None:
    # Training packs rows and keeps fp32 weights, answering caches keys and rounds them to bf16:
    # two kinds of attention, so two models.
    torch._foreach_copy_(list(student.model.parameters()), list(policy.parameters()))


def _probe(
    path: Path,
    policy: PreTrainedModel,
    student: TorchStudent,
    rows: list[dict[str, Any]],
    dev: list[dict[str, Any]],
    params: Rl,
) -> tuple[list[Group], float]:
    """Answers to the rows that gold is least likely for, and dev's exact match before training."""
    if path.is_file():  # of a run that was killed
        kept = read_json(path)
        return [Group(**group) for group in kept["groups"]], kept["score"]
    with torch.autocast(student.device.type, torch.bfloat16, enabled=use_bf16(params.precision)):
        hard = least_likely(policy, rows, student.task, student.tokenizer, params.probe_rows)
    randomness = generator(student.device, params.seed, _PROBING)
    groups = sample_groups(student, hard, _sampling(params), params.batch_size, randomness)
    score = exact_match(student, dev, params)
    write_json(path, {"groups": [asdict(group) for group in groups], "score": score})
    return groups, score


def _sampling(params: Rl) -> Sampling:
    return Sampling(params.group_size, params.temperature, params.max_new_tokens)


def _run(
    base: Path,
    policy: PreTrainedModel,
    student: TorchStudent,
    picked: list[Group],
    dev: list[dict[str, Any]],
    sft_score: float,
    params: Rl,
    folder: Path,
) -> TrainerState:
    """Train until the last step or until dev stops gaining; the state of the trainer then."""
    last = get_last_checkpoint(str(folder))
    if last:
        state = TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
        if _is_over(state, params):
            return state
    tokenizer = AutoTokenizer.from_pretrained(base)
    task = student.task

    def rewards(completion_ids: list[list[int]], row: list[str], **_: Any) -> list[float]:
        parts = zip(completion_ids, map(json.loads, row), strict=True)
        return [
            grade(answer, asked["query"], asked["call"], task.of(asked), tokenizer)
            for answer, asked in parts
        ]

    trainer = GroupTrainer(
        student=student,
        dev=dev,
        params=params,
        model=policy,
        reward_funcs=rewards,
        args=_arguments(params, folder),
        train_dataset=_dataset([dict(group.row) for group in picked], task, tokenizer, params),
        eval_dataset=Dataset.from_list([{"prompt": row["query"]} for row in dev]),
        processing_class=tokenizer,
        callbacks=[MarkComplete(), _StopWithoutGain(sft_score, params)],
    )
    trainer.train(resume_from_checkpoint=last)
    return trainer.state


def _dataset(rows: list[dict[str, Any]], task: Task, tokenizer: Any, params: Rl) -> Dataset:
    """The prompts of the whole run, in order: every row once before any comes again."""
    draw = random.Random(f"{params.seed} {_ORDERING}")
    wanted = params.steps * params.sampled_prompts
    order: list[dict[str, Any]] = []
    while len(order) < wanted:
        order += draw.sample(rows, len(rows))
    return Dataset.from_list(
        [
            {
                "prompt": tokenizer.bos_token + task.of(row).render_prompt(row["query"]),
                "row": json.dumps(row),
            }
            for row in order[:wanted]
        ]
    )


def _arguments(params: Rl, folder: Path) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=params.steps,
        per_device_train_batch_size=params.sampled_prompts * params.group_size,
        per_device_eval_batch_size=params.group_size,
        num_generations=params.group_size,
        max_completion_length=params.max_new_tokens,
        temperature=params.temperature,
        beta=params.beta,
        learning_rate=params.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        shuffle_dataset=False,  # the dataset is the order
        disable_dropout=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=use_bf16(params.precision),
        gradient_checkpointing=False,
        eval_strategy="steps",
        eval_steps=params.eval_steps,
        metric_for_best_model=_DEV,
        greater_is_better=True,
        save_strategy="steps",
        save_steps=params.eval_steps,
        save_total_limit=2,
        logging_steps=params.log_steps,
        report_to=[],
        seed=params.seed,
        data_seed=params.seed,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        disable_tqdm=False,
    )


def _ship(base: Path, checkpoint: str | None, out: Path) -> None:
    if checkpoint is None:
        with replace_folder(out) as partial:
            shutil.copytree(base, partial, dirs_exist_ok=True)
        return
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    save_model(model, AutoTokenizer.from_pretrained(base), out)


def _start_of_curve(groups: Sequence[Group], share: float, score: float) -> dict[str, Any]:
    """The point before the first step: the answers of the probe."""
    values = [
        0,
        _mean(group.mean for group in groups),
        _mean(group.spread for group in groups),
        round(_tokens(groups), 4),
        0.0,
        round(1 - share, 6),
        score,
    ]
    return dict(zip(CURVE, values, strict=True))


def _curve(history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A point for each step that logged; no dev score (an empty string) where none was measured."""
    dev = {entry["step"]: entry[f"eval_{_DEV}"] for entry in history if f"eval_{_DEV}" in entry}
    logged = {entry["step"]: entry for entry in history if "group_reward" in entry}
    points = []
    for step, entry in sorted(logged.items()):
        values = [
            int(step),
            round(entry["group_reward"], 6),
            round(entry["group_spread"], 6),
            round(entry["group_tokens"], 4),
            round(entry.get("kl", 0.0), 6),
            round(entry["group_flat"], 6),
            dev.get(step, ""),
        ]
        points.append(dict(zip(CURVE, values, strict=True)))
    return points


def _gains(state: TrainerState, curve: list[dict[str, Any]]) -> dict[str, float]:
    trained = curve[1:] or curve
    best = cast(float, state.best_metric)
    return {
        "steps": state.global_step,
        "best_step": state.best_global_step or 0,
        "best_dev_exact_match": best,
        "kept_sft": int(state.best_model_checkpoint is None),
        "first_reward": trained[0]["reward"],
        "last_reward": trained[-1]["reward"],
        "last_kl": trained[-1]["kl"],
    }


def _described(group: Group) -> dict[str, Any]:
    row = {key: group.row[key] for key in ("id", "query", "call")}
    return {**row, "mean_reward": round(group.mean, 6), "spread": round(group.spread, 6)}


def _tokens(groups: Sequence[Group]) -> float:
    return statistics.fmean(len(answer) for group in groups for answer in group.answers)


def _mean(values: Any) -> float:
    return round(statistics.fmean(values), 6)
