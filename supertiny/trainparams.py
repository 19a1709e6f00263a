"""Parameters that the stages `sft` and `distill` have in common."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class TrainParams:
    """How a model is trained on rows."""

    seed: int = param("seed of shuffling and of any dropout", ge=0)
    epochs: float = param("passes over the rows", ge=0.01, le=1000)
    max_steps: int = param("stop after this many optimizer steps; 0 for no limit", ge=0)
    batch_size: int = param("rows per optimizer step, over all processes", ge=1)
    candidates: int = param(
        "rows looked at for each row trained on; a step trains on the hardest of them, and 1 on all",
        ge=1,
    )
    easy_loss: float = param(
        "candidates are looked at until a batch of them has at least this loss (nats an answer)",
        ge=0,
    )
    learning_rate: float = param("peak learning rate of AdamW, warmed up and then decayed", ge=0)
    schedule: str = param("decay after the warm-up", choices=("cosine", "linear", "constant"))
    warmup_share: float = param("share of the steps that warm up", ge=0, le=0.5)
    adam_beta2: float = param(
        "decay of AdamW's second moment; a run of a few hundred steps must forget its first ones",
        ge=0, le=0.9999,
    )  # fmt: skip
    weight_decay: float = param("decoupled weight decay", ge=0)
    max_grad_norm: float = param("gradients are clipped to this norm", ge=0)
    frozen_layers: int = param(
        "lowest layers, with the embedding, that stay as they are; 0 trains everything", ge=0
    )
    precision: str = param(
        "auto: bf16 autocast over fp32 weights where the hardware multiplies bf16, else fp32",
        choices=PRECISIONS,
    )
    pad_to_multiple: int = param("a step's tokens are rounded up to a multiple of this", ge=1)
    save_steps: int = param("optimizer steps between checkpoints", ge=1)
    log_steps: int = param("optimizer steps between points of the loss curve", ge=1)
    num_processes: int = param("processes that share each step, one a GPU or group of cores", ge=1)
    accelerate_config: str = param(
        "configuration file for `accelerate launch`, such as conf/accelerate/fsdp.yaml, in place of "
        "num_processes on this machine; empty: none"
    )
