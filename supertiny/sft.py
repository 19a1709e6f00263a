"""Supervised fine-tuning with TRL: loss on the answer only, resumable to the same final weights."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from supertiny.calls import call_from_json
from supertiny.errors import UserError
from supertiny.packing import IGNORED, PackedCollator, answer_logits
from supertiny.params.sft import Sft
from supertiny.precision import use_bf16
from supertiny.task import Task
from supertiny.training import (
    MarkComplete,
    arguments,
    check_fit,
    checkpoint_folder,
    finished_model,
    freeze_layers,
    load_model,
    loss_curve,
    save_model,
    several,
)

Encoded = dict[str, list[int]]  # input_ids and labels of one row
_Item = TypeVar("_Item")


def encode_row(row: dict[str, Any], task: Task, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Token ids of prompt and answer, and labels that ignore the prompt; both of the same length."""
    task = task.of(row)
    prompt = tokenizer.bos_token + task.render_prompt(row["query"])
    answer = task.render_call(call_from_json(row["call"])) + tokenizer.eos_token
    # Tokenized apart, as at inference, where the answer is not there yet when the prompt is encoded.
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    return {
        "input_ids": prompt_ids + answer_ids,
        "labels": [IGNORED] * len(prompt_ids) + answer_ids,
    }


def build_dataset(
    rows: Iterable[dict[str, Any]], task: Task, tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """A `datasets.Dataset` with columns input_ids and labels."""
    return Dataset.from_list([encode_row(row, task, tokenizer) for row in rows])


def answer_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of each answer token of a packed batch, in order: shape (answer tokens,), fp32."""
    logits, targets = answer_logits(model, batch)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def hardest(
    rows: list[Encoded], score: Callable[[list[Encoded]], list[float]], size: int, easy: float
) -> tuple[list[Encoded], list[float]]:
    """``size`` of the rows, in order: those with the highest losses, and all losses asked for.

    Late in a run two rows of three have nothing left to teach, and scoring one costs a third of
    training on it (Selective-Backprop, arXiv 1910.00762). Rows are scored ``size`` at a time, and
    only until ``size`` of them have a loss of at least ``easy``.
    """
    losses: list[float] = []
    while len(losses) < len(rows) and sum(loss >= easy for loss in losses) < size:
        losses += score(rows[len(losses) : len(losses) + size])
    ranked = sorted(range(len(losses)), key=lambda index: -losses[index])
    return [rows[index] for index in sorted(ranked[:size])], losses


class AnswerLossTrainer(SFTTrainer):
    """`SFTTrainer` with the loss on answers only, on those rows of a batch that still teach.

    A batch holds ``params.candidates`` times as many rows as a step trains on; see `hardest`. With
    several processes each one scores and trains on its part of the rows, and all pick the same ones:
    a step is that of one process with the whole batch.
    """

    def __init__(self, *, pack: PackedCollator, params: Sft, **kwargs: Any) -> None:
        super().__init__(data_collator=lambda rows: {"rows": rows}, **kwargs)
        self.pack = pack
        self.params = params

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of this process's part of the rows picked, per answer token of all of them."""
        del return_outputs, num_items_in_batch  # of evaluation and accumulation, which are not used
        rows = gather_object(inputs["rows"])
        if self.params.candidates > 1:
            rows = self._pick(model, rows)
        # Gradients are averaged over the processes: each one's sums count as many times.
        positions = sum(map(answer_length, rows)) / self.accelerator.num_processes
        return self.loss_of(model, self._part(rows), positions)

    def loss_of(self, model: Any, rows: list[Any], positions: float) -> torch.Tensor:
        """The sum of the rows' losses over ``positions``."""
        return answer_losses(model, self.pack(rows)).sum() / positions

    def _pick(self, model: Any, rows: list[Any]) -> list[Any]:
        def score(scored: list[Any]) -> list[float]:
            part = self._part(scored)
            with torch.no_grad():
                tokens = answer_losses(model, self.pack(part))
            answers = tokens.split([answer_length(row) for row in part])
            return gather_object([answer.sum().item() for answer in answers])

        size, easy = self.params.batch_size, self.params.easy_loss
        picked, losses = hardest(rows, score, size, easy)
        # The first rows scored were not picked for anything: theirs is the loss of a new row.
        first = rows[:size]
        unseen = sum(losses[: len(first)]) / sum(map(answer_length, first))
        self._metrics["train"]["unseen_loss"].append(unseen)
        hard = statistics.fmean(loss >= easy for loss in losses)
        self._metrics["train"]["hard_share"].append(hard)
        return picked

    def _part(self, rows: list[_Item]) -> list[_Item]:
        """This process's part of what all of them have."""
        size = math.ceil(len(rows) / self.accelerator.num_processes)
        start = self.accelerator.process_index * size
        return rows[start : start + size]


def answer_length(row: Encoded) -> int:
    """Answer tokens of an encoded row, the end token among them."""
    return len(row["labels"]) - row["labels"].count(IGNORED)


def train(
    base: Path,
    rows: list[dict[str, Any]],
    task: Task,
    params: Sft,
    state: Path,
    out: Path,
    report: Callable[[dict[str, Any], list[dict[str, float]]], None],
) -> None:
    """Fine-tune ``base`` on ``rows`` and write the model and tokenizer to ``out``.

    Args:
        state: folder for checkpoints, outside DVC's outs; a run with the same base, rows and params
            goes on from the last one there, and another run starts anew.
        report: takes the final metrics (flat, no times) and the loss curve, before ``state`` is
            removed; called in one process only.

    Raises:
        UserError: ``base`` is no model folder, or the params do not fit it or each other.
    """
    check(base, params)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_model(base)
    freeze_layers(model, params.frozen_layers)
    dataset = build_dataset(rows, task, tokenizer)
    processes = several()
    with processes.main_process_first():
        checkpoints = checkpoint_folder(state, base, dataset, params)
    trainer = AnswerLossTrainer(
        model=model,
        args=arguments(params, checkpoints, len(dataset)),
        train_dataset=dataset,
        processing_class=tokenizer,
        pack=PackedCollator(params.pad_to_multiple, tokenizer.pad_token_id),
        params=params,
        peft_config=_lora(params),
        callbacks=[MarkComplete()],
    )
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    trained = finished_model(trainer)
    if processes.is_main_process:
        curve = loss_curve(trainer.state.log_history)
        save_model(trained, tokenizer, out)
        counts = [answer_length(row) for row in dataset.to_list()]
        metrics = {
            "rows": len(dataset),
            "steps": result.global_step,
            "tokens_per_row": round(statistics.fmean(map(len, dataset["input_ids"])), 2),
            "answer_tokens_per_row": round(statistics.fmean(counts), 2),
            "final_loss": curve[-1]["loss"],
            "final_unseen_loss": curve[-1]["unseen_loss"],
            "final_hard_share": curve[-1]["hard_share"],
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "bf16": int(use_bf16(params.precision)),
        }
        report(metrics, curve)
        shutil.rmtree(state)  # the finished model is an out now; a new run must not find half of it
    processes.wait_for_everyone()


def check(base: Path, params: Sft) -> None:
    """Raises `UserError` where there is no base model, or params do not fit it or each other."""
    if not (base / "config.json").is_file():
        raise UserError(f"{base}: no model there; run `dvc repro fetch` or `dvc pull`")
    check_fit(base, params, "sft")


def _lora(params: Sft) -> Any:
    if params.method == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
