"""Parameters of the stage `evaluate`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class Evaluate:
    """How the variants answer the test set; none of it changes what counts as right."""

    batch_size: int = param("queries a model answers at once; more memory, more speed", ge=1)
    max_new_tokens: int = param("tokens after which a trained student is cut off", ge=1)
    precision: str = param(
        "of PyTorch students. auto: bf16 where the hardware multiplies it, else fp32",
        choices=PRECISIONS,
    )
    threads: int = param("CPU threads of a model (not of the rules)", ge=1)
    few_shot: int = param("examples from train that the untrained base model is shown", ge=1)
    few_shot_max_new_tokens: int = param("tokens after which the base model is cut off", ge=1)
