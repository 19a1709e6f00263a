"""Parameters of the stage `sft`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.trainparams import TrainParams


@dataclass(frozen=True)
class Sft(TrainParams):
    """How the student is fine-tuned on the task's rows."""

    method: str = param("all weights, or LoRA adapters merged at the end", choices=("full", "lora"))
    lora_rank: int = param("rank of the adapters (method lora)", ge=1)
    lora_alpha: int = param("scale of the adapters (method lora)", ge=1)
