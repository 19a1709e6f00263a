"""Parameters of the stage `rl`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class Rl:
    """How the fine-tuned student is trained further on rewards of its own answers (GRPO)."""

    seed: int = param("seed of the rows looked at, of their order and of every answer", ge=0)
    ranked_rows: int = param(
        "training rows, drawn at random, that are ranked by how likely gold is to the student", ge=1
    )
    probe_rows: int = param("the least likely of those, to each of which answers are sampled", ge=1)
    group_size: int = param("answers sampled to a query", ge=2)
    temperature: float = param("of sampling", ge=0.01)
    max_new_tokens: int = param("an answer that has not ended after these counts as illegal", ge=1)
    batch_size: int = param("queries whose answers are sampled at once outside training", ge=1)
    steps: int = param("optimizer steps, a multiple of eval_steps", ge=1)
    prompts_per_step: int = param("groups that a step trains on, at most", ge=1)
    sampled_prompts: int = param(
        "groups sampled for a step; those whose rewards are all the same are left out", ge=1
    )
    learning_rate: float = param("of AdamW, constant", ge=0)
    beta: float = param("weight of the KL divergence to the fine-tuned student", ge=0)
    frozen_layers: int = param(
        "lowest layers, with the embedding, that stay as they are; 0 trains everything", ge=0
    )
    precision: str = param(
        "auto: bf16 autocast over fp32 weights where the hardware multiplies bf16, else fp32",
        choices=PRECISIONS,
    )
    dev_rows: int = param("dev rows whose exact match picks the checkpoint, the first ones", ge=1)
    eval_steps: int = param("optimizer steps between checkpoints, each measured on dev", ge=1)
    patience: int = param("stop after this many checkpoints in a row without a new best", ge=1)
    log_steps: int = param("optimizer steps between points of the curve", ge=1)
