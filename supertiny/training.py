"""What the training stages share: precision, frozen layers, checkpoints and the finished model."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig

from supertiny.errors import UserError
from supertiny.io import replace_folder, sha256_file
from supertiny.packing import ATTENTION
from supertiny.precision import use_bf16

WORKER = "worker"  # the argument of a process among several
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>
_COMPLETE = "COMPLETE"  # in a checkpoint all of whose files are written


def load_model(base: Path) -> Any:
    """A model folder in fp32 to train, with attention for packed rows."""
    _keep_freed_memory()
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=ATTENTION
    )


def _keep_freed_memory() -> None:
    # glibc gives large blocks back to the kernel when they are freed, and each step asks for the
    # same ones again: fresh pages cost 7% of a step's time on two cores.
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(_M_MMAP_MAX, 0)
        allocator.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def check_fit(base: Path, params: Any, section: str) -> None:
    """Raises `UserError` for params that do not fit the model in ``base`` or each other."""
    check_layers(base, params.frozen_layers, f"{section}.frozen_layers")
    if params.batch_size % params.num_processes:
        raise UserError(
            f"{section}.batch_size: found {params.batch_size}, expected a multiple of "
            f"{section}.num_processes, {params.num_processes}"
        )


def check_layers(base: Path, count: int, key: str) -> None:
    """Raises `UserError` where ``key`` asks for more layers than the model in ``base`` has."""
    layers = AutoConfig.from_pretrained(base).num_hidden_layers
    if count > layers:
        raise UserError(f"{key}: found {count}, the model has {layers} layers")


def freeze_layers(model: Any, count: int) -> None:
    """Take the lowest layers of a model, and its embedding, out of training; 0 trains everything."""
    if count:
        # A trained embedding would need gradients through every layer, the frozen ones too.
        model.get_input_embeddings().requires_grad_(False)
        for layer in model.model.layers[:count]:
            layer.requires_grad_(False)


def several() -> PartialState:
    """The processes that train together; just this one, unless they were launched."""
    return PartialState(cpu=not torch.cuda.is_available())


def is_shared(params: Any) -> bool:
    """Whether several processes are to train together."""
    return params.num_processes > 1 or bool(params.accelerate_config)


def launch(stage: str, params: Any, *named: str) -> None:
    """Run a stage's training in the processes that its params ask for, and wait for them.

    Each one runs ``stages.<stage>`` with the argument `WORKER`, behind the stage's own ``named`` ones.

    Raises:
        subprocess.CalledProcessError: one of them failed.
    """
    if params.accelerate_config:
        command = ["accelerate.commands.launch", "--config_file", params.accelerate_config]
        command += ["--module"]
    else:
        # `accelerate launch --cpu` starts several processes through MPI alone; this is what it runs
        # on GPUs, and Accelerate finds itself in the processes' environment in both cases.
        command = ["torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={params.num_processes}", "-m"]
    command += [f"stages.{stage}", *named, WORKER]
    on_cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, "-m", *command], env={**os.environ, **on_cpu}, check=True)


def arguments(params: Any, checkpoints: Path, rows: int) -> SFTConfig:
    """The Trainer's arguments of a run over ``rows`` rows with the params of `sft` or `distill`."""
    steps = math.ceil(rows / (params.batch_size * params.candidates) * params.epochs)
    steps = min(steps, params.max_steps) if params.max_steps else steps
    batch = params.batch_size * params.candidates
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch // several().num_processes,
        # Half a batch at the end of a pass would be filled up, but in several processes only.
        dataloader_drop_last=rows >= batch,
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


def checkpoint_folder(state: Path, base: Path, dataset: Dataset, params: Any) -> Path:
    """Where a run keeps its checkpoints: empty, or with those of the same run that was stopped.

    Args:
        params: of the run, a dataclass.
    """
    # Checkpoints of other data, weights, params or code must never be taken up: the folder is named
    # after all four, and what other runs left there is removed.
    identity = json.dumps(
        [sha256_file(base / "model.safetensors"), dataset.to_dict(), asdict(params), _code_sha256()]
    )
    folder = state / hashlib.sha256(identity.encode()).hexdigest()[:16]
    for other in state.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    _drop_torn_checkpoints(folder)
    return folder


def _code_sha256() -> str:
    """Of the modules of this package that run now; params beside the run's own are only checked."""
    package = Path(__file__).parent
    files = {Path(getattr(module, "__file__", None) or "") for module in [*sys.modules.values()]}
    code = sorted(f for f in files if package in f.parents and package / "params" not in f.parents)
    digests = [f"{file.relative_to(package)} {sha256_file(file)}" for file in code]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class MarkComplete(TrainerCallback):
    """Marks each checkpoint once all its files are written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each checkpoint."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / _COMPLETE).touch()


def _drop_torn_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / _COMPLETE).is_file():
            shutil.rmtree(checkpoint)


def loss_curve(
    history: list[dict[str, float]], terms: Sequence[str] = ()
) -> list[dict[str, float]]:
    """The points of a Trainer's log: losses (nats a token), the ``terms`` they are made of, rates."""
    return [
        {
            "step": int(entry["step"]),
            "loss": round(entry["loss"], 6),
            # Where every candidate is trained on, each one is new when its loss is taken.
            "unseen_loss": round(
                entry.get("unseen_loss", entry.get("cross_entropy", entry["loss"])), 6
            ),
            "hard_share": round(entry.get("hard_share", 1.0), 4),
            **{name: round(entry[name], 6) for name in terms},
            "learning_rate": float(f"{entry['learning_rate']:.4g}"),
        }
        for entry in history
        if "loss" in entry
    ]


def finished_model(trainer: Any) -> Any:
    """What was trained, as a plain model; whole in the main process alone. All must call it."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    if accelerator.distributed_type != DistributedType.FSDP:
        return model
    state = accelerator.get_state_dict(trainer.model_wrapped)
    whole = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    if accelerator.is_main_process:
        whole.load_state_dict(state)
    return whole


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write a model folder, adapters merged, replacing what is there."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = True
    with replace_folder(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
