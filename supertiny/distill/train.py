"""Training on gold answers and captured log-probabilities, resumable, in one process or several."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

from supertiny.distill.lessons import Lesson
from supertiny.distill.loss import Loss, Weights, ckd_loss
from supertiny.errors import UserError
from supertiny.io import replace_folder
from supertiny.packing import IGNORED, PackedCollator, answer_logits
from supertiny.params.distill import Distill
from supertiny.precision import use_bf16
from supertiny.sft import AnswerLossTrainer
from supertiny.training import (
    MarkComplete,
    arguments,
    check_fit,
    checkpoint_folder,
    finished_model,
    freeze_layers,
    load_model,
    loss_curve,
    several,
)

_TERMS = ("forward_kl", "tail", "cross_entropy")
_WEIGHTS = {".safetensors", ".bin"}
_Item = TypeVar("_Item")
_Row = dict[str, Any]  # input_ids, labels, and lesson: the place in the list of lessons


@dataclass(frozen=True)
class _Run:
    """What a run's checkpoints depend on beside the student and the tokens of the lessons."""

    params: Distill
    logits_sha256: str


def lesson_loss(
    model: Any,
    rows: Sequence[_Row],
    lessons: Sequence[Lesson],
    pack: PackedCollator,
    weights: Weights,
    positions: float | None = None,
) -> Loss:
    """`ckd_loss` of a model on rows of the dataset; cross-entropy on gold answers alone.

    Args:
        positions: answer tokens that the sums are divided by; those of these rows if None.
    """
    logits, labels = answer_logits(model, pack(list(rows)))
    taught = [lessons[row["lesson"]] for row in rows]
    ids = torch.cat([lesson.teacher_ids for lesson in taught]).to(logits.device)
    log_probs = torch.cat([lesson.teacher_log_probs for lesson in taught]).to(logits.device)
    own = [torch.full((len(lesson.teacher_ids),), not lesson.gold) for lesson in taught]
    labels = labels.masked_fill(torch.cat(own).to(labels.device), IGNORED)
    count = len(labels) if positions is None else positions
    return ckd_loss(logits, ids, log_probs, labels, weights, count)


class DistillTrainer(AnswerLossTrainer):
    """Distillation on those rows of a batch whose answers the student finds least likely."""

    def __init__(self, *, lessons: Sequence[Lesson], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lessons = lessons
        self.weights = Weights(*(getattr(self.params, name) for name in _TERMS))

    def loss_of(self, model: Any, rows: list[_Row], positions: float) -> torch.Tensor:
        """The distillation loss of the rows over ``positions``."""
        loss = lesson_loss(model, rows, self.lessons, self.pack, self.weights, positions)
        found = gather_object([[getattr(loss, name).item() for name in _TERMS]])
        for name, values in zip(_TERMS, zip(*found, strict=True), strict=True):
            self._metrics["train"][name].append(statistics.fmean(values))
        return loss.total


def train(
    student: Path,
    lessons: Sequence[Lesson],
    logits_sha256: str,
    params: Distill,
    state: Path,
    out: Path,
    report: Callable[[dict[str, Any], list[dict[str, float]]], None],
) -> None:
    """Distil into the model in folder ``student`` and write it, with its tokenizer, to ``out``.

    Args:
        logits_sha256: of the file the lessons come from.
        state: folder for checkpoints, outside DVC's outs; a run with the same student, lessons and
            params goes on from the last one there, and another run starts anew.
        report: takes the final metrics (flat, no times) and the loss curve, before ``state`` is
            removed; called in one process only.

    Raises:
        UserError: params that do not fit each other or the model, or nothing to learn from.
    """
    lessons = usable(lessons, params)
    check_fit(student, params, "distill")
    dataset = Dataset.from_list(
        [
            {"input_ids": lesson.input_ids, "labels": lesson.labels, "lesson": at}
            for at, lesson in enumerate(lessons)
        ]
    )
    run: Any = _Run(params, logits_sha256)
    processes = several()
    with processes.main_process_first():
        checkpoints = checkpoint_folder(state, student, dataset, run)
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = load_model(student)
    freeze_layers(model, params.frozen_layers)
    trainer = DistillTrainer(
        model=model,
        args=arguments(params, checkpoints, len(dataset)),
        train_dataset=dataset,
        processing_class=tokenizer,
        pack=PackedCollator(params.pad_to_multiple, tokenizer.eos_token_id),
        params=params,  # it has all that is read of fine-tuning's
        lessons=lessons,
        callbacks=[MarkComplete()],
    )
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    trained = finished_model(trainer)
    if processes.is_main_process:
        curve = loss_curve(trainer.state.log_history, _TERMS)
        _save(trained, student, out)
        report(_metrics(result.global_step, lessons, curve, model, params), curve)
        shutil.rmtree(state)  # the finished model is an out now; a new run must not find half of it
    processes.wait_for_everyone()


def usable(lessons: Sequence[Lesson], params: Distill) -> list[Lesson]:
    """The lessons that these weights learn from: gold answers, captured ones, or both.

    Raises:
        UserError: there are none.
    """
    if not any(getattr(params, name) for name in _TERMS):
        raise UserError(f"distill: found 0 for each of {', '.join(_TERMS)}; one must be more")
    with_teacher = _with_teacher(params)
    found = [
        lesson
        for lesson in lessons
        if (params.cross_entropy and lesson.gold) or (with_teacher and lesson.captured)
    ]
    if not found:
        raise UserError(
            "distill: no row to learn from has only tokens that the student has; "
            "check models/pruned, or capture more with logits.rows"
        )
    return found


def _with_teacher(params: Distill) -> bool:
    return bool(params.forward_kl or params.tail)


def _metrics(
    steps: int, lessons: list[Lesson], curve: list[dict[str, float]], model: Any, params: Distill
) -> dict[str, Any]:
    captured = [lesson for lesson in lessons if _with_teacher(params) and lesson.captured]
    masses = [lesson.teacher_log_probs.double().exp().sum(-1) for lesson in captured]
    mass = torch.cat(masses).mean().item() if masses else 0.0
    last = {f"final_{name}": curve[-1][name] for name in ("loss", "unseen_loss", *_TERMS)}
    return {
        "rows": len(lessons),
        "captured_rows": len(captured),
        "own_rows": sum(not lesson.gold for lesson in lessons),
        "steps": steps,
        "answer_tokens": sum(len(lesson.teacher_ids) for lesson in lessons),
        "mean_teacher_mass": round(mass, 6),
        **last,
        "final_hard_share": curve[-1]["hard_share"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bf16": int(use_bf16(params.precision)),
    }


def _save(model: Any, student: Path, out: Path) -> None:
    model.config.use_cache = True
    with replace_folder(out) as partial:
        model.save_pretrained(partial)
        # The tokenizer's own files: transformers could write a cut one with other rules.
        for file in sorted(student.iterdir()):
            if file.suffix not in _WEIGHTS and not (partial / file.name).exists():
                shutil.copyfile(file, partial / file.name)
