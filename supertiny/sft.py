"""Supervised fine-tuning with TRL: loss on the answer only, resumable to the same final weights."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from supertiny.calls import call_from_json
from supertiny.errors import UserError
from supertiny.io import replace_folder, sha256_file
from supertiny.packing import ATTENTION, IGNORED, PackedCollator
from supertiny.params.sft import Sft
from supertiny.task import Task

Encoded = dict[str, list[int]]  # input_ids and labels of one row
_COMPLETE = "COMPLETE"  # in a checkpoint all of whose files are written


def encode_row(row: dict[str, Any], task: Task, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Token ids of prompt and answer, and labels that ignore the prompt; both of the same length."""
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


def use_bf16(precision: str) -> bool:
    """Whether to run the matrix products in bf16; see the param ``precision``."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # Without these instructions bf16 is emulated, a hundred times slower than fp32.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def answer_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of each answer token of a packed batch, in order: shape (answer tokens,), fp32.

    The head runs on answers only. TRL scores every position outside CUDA and recomputes the logits
    in the backward pass; with a vocabulary as wide as this student's that is a third of all work on
    a CPU.
    """
    batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
    targets = batch.pop("labels")[0, 1:]
    kept = (targets != IGNORED).nonzero().flatten()
    logits = model(**batch, logits_to_keep=kept, use_cache=False).logits[0].float()
    return torch.nn.functional.cross_entropy(logits, targets[kept], reduction="none")


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

    A batch holds ``params.candidates`` times as many rows as a step trains on; see `hardest`.
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
        """Mean cross-entropy over the answer tokens of the rows picked."""
        del return_outputs, num_items_in_batch  # of evaluation and accumulation, which are not used
        rows = inputs["rows"]
        if self.params.candidates > 1:
            rows = self._pick(model, rows)
        return answer_losses(model, self.pack(rows)).mean()

    def _pick(self, model: Any, rows: list[Encoded]) -> list[Encoded]:
        unseen: list[float] = []

        def score(scored: list[Encoded]) -> list[float]:
            with torch.no_grad():
                tokens = answer_losses(model, self.pack(scored))
            unseen.append(tokens.mean().item())
            lengths = [sum(label != IGNORED for label in row["labels"]) for row in scored]
            return [answer.sum().item() for answer in tokens.split(lengths)]

        picked, losses = hardest(rows, score, self.params.batch_size, self.params.easy_loss)
        # The first rows scored were not picked for anything: theirs is the loss of a new row.
        found = {
            "unseen_loss": unseen[0],
            "hard_share": statistics.fmean(loss >= self.params.easy_loss for loss in losses),
        }
        for name, value in found.items():
            self._metrics["train"][name].append(value)
        return picked


def train(
    base: Path, rows: list[dict[str, Any]], task: Task, params: Sft, state: Path, out: Path
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Fine-tune ``base`` on ``rows`` and write the model and tokenizer to ``out``.

    Args:
        state: folder for checkpoints, outside DVC's outs; a run with the same base, rows and params
            goes on from the last one there, and another run starts anew.

    Returns:
        Final metrics (flat, no times) and the loss curve.

    Raises:
        UserError: ``base`` is no model folder, or more layers are to be frozen than there are.
    """
    if not (base / "config.json").is_file():
        raise UserError(f"{base}: no model there; run `dvc repro fetch` or `dvc pull`")
    tokenizer = AutoTokenizer.from_pretrained(base)
    dataset = build_dataset(rows, task, tokenizer)
    checkpoints = _checkpoint_folder(state, base, dataset, params)
    model = _load_model(base, params)
    trainer = AnswerLossTrainer(
        model=model,
        args=_arguments(params, checkpoints, len(dataset)),
        train_dataset=dataset,
        processing_class=tokenizer,
        pack=PackedCollator(params.pad_to_multiple, tokenizer.pad_token_id),
        params=params,
        peft_config=_lora(params),
        callbacks=[_MarkComplete()],
    )
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    curve = _curve(trainer.state.log_history)
    _save(trainer.model, tokenizer, out)
    shutil.rmtree(state)  # the finished model is an out now; a new run must not find half of an old
    metrics = {
        "rows": len(dataset),
        "steps": result.global_step,
        "tokens_per_row": round(statistics.fmean(len(ids) for ids in dataset["input_ids"]), 2),
        "answer_tokens_per_row": round(
            statistics.fmean(
                sum(label != IGNORED for label in labels) for labels in dataset["labels"]
            ),
            2,
        ),
        "final_loss": curve[-1]["loss"],
        "final_unseen_loss": curve[-1]["unseen_loss"],
        "final_hard_share": curve[-1]["hard_share"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bf16": int(use_bf16(params.precision)),
    }
    return metrics, curve


def _load_model(base: Path, params: Sft) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=ATTENTION
    )
    layers = model.model.layers
    if params.frozen_layers > len(layers):
        raise UserError(
            f"sft.frozen_layers: found {params.frozen_layers}, the model has {len(layers)} layers"
        )
    if params.frozen_layers:
        # A trained embedding would need gradients through every layer, the frozen ones too.
        model.get_input_embeddings().requires_grad_(False)
        for layer in layers[: params.frozen_layers]:
            layer.requires_grad_(False)
    return model


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


def _arguments(params: Sft, checkpoints: Path, rows: int) -> SFTConfig:
    steps = math.ceil(rows / (params.batch_size * params.candidates) * params.epochs)
    steps = min(steps, params.max_steps) if params.max_steps else steps
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=params.batch_size * params.candidates,
        learning_rate=params.learning_rate,
        lr_scheduler_type=(
            "constant_with_warmup" if params.schedule == "constant" else params.schedule
        ),
        warmup_steps=round(params.warmup_share * steps),
        adam_beta2=params.adam_beta2,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim="adamw_torch_fused",
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=use_bf16(params.precision),
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=params.save_steps,
        save_total_limit=2,
        logging_steps=params.log_steps,
        report_to=[],
        seed=params.seed,
        data_seed=params.seed,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        max_length=None,
        disable_tqdm=False,
    )


def _checkpoint_folder(state: Path, base: Path, dataset: Dataset, params: Sft) -> Path:
    # Checkpoints of other data, weights or params must never be taken up: the folder is named after
    # all three, and what other runs left there is removed.
    identity = json.dumps(
        [sha256_file(base / "model.safetensors"), dataset.to_dict(), asdict(params)]
    )
    folder = state / hashlib.sha256(identity.encode()).hexdigest()[:16]
    for other in state.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    _drop_torn_checkpoints(folder)
    return folder


class _MarkComplete(TrainerCallback):
    """Marks each checkpoint once all its files are written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / _COMPLETE).touch()


def _drop_torn_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / _COMPLETE).is_file():
            shutil.rmtree(checkpoint)


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {
            "step": int(entry["step"]),
            "loss": round(entry["loss"], 6),
            "unseen_loss": round(entry.get("unseen_loss", entry["loss"]), 6),
            "hard_share": round(entry.get("hard_share", 1.0), 4),
            "learning_rate": float(f"{entry['learning_rate']:.4g}"),
        }
        for entry in history
        if "loss" in entry
    ]


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = True
    with replace_folder(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
