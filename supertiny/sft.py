"""Supervised fine-tuning with TRL: loss on the answer only, resumable to the same final weights."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Iterable
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
from supertiny.io import sha256_file
from supertiny.packing import ATTENTION, IGNORED, ROW_TENSORS, PackedCollator
from supertiny.params.sft import Sft
from supertiny.task import Task

_COMPLETE = "COMPLETE"  # in a checkpoint all of whose files are written


def encode_row(
    row: dict[str, Any], task: Task, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
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


class AnswerLossTrainer(SFTTrainer):
    """`SFTTrainer` that runs the head on answers only.

    TRL scores every position outside CUDA and recomputes the logits in the backward pass; with a
    vocabulary as wide as this student's that is a third of all work on a CPU.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the whole step, as TRL's own."""
        targets = inputs["labels"][0, 1:]
        kept = (targets != IGNORED).nonzero().flatten()
        packing = {key: inputs[key] for key in ("input_ids", "position_ids", *ROW_TENSORS)}
        outputs = model(**packing, logits_to_keep=kept, use_cache=False)
        loss = torch.nn.functional.cross_entropy(
            outputs.logits[0].float(), targets[kept], reduction="sum"
        )
        loss = loss / (len(kept) if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


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
        data_collator=PackedCollator(params.pad_to_multiple, tokenizer.pad_token_id),
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
    steps = math.ceil(rows / params.batch_size * params.epochs)
    steps = min(steps, params.max_steps) if params.max_steps else steps
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=params.batch_size,
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
            "learning_rate": float(f"{entry['learning_rate']:.4g}"),
        }
        for entry in history
        if "loss" in entry
    ]


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.config.use_cache = True
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for file in partial.iterdir():
        file.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
