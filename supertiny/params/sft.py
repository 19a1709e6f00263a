"""Parameters of the stage `sft`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.trainparams import TrainParams


@dataclass(frozen=True)
class Sft(TrainParams):
    """How the student is fine-tuned: first on commands, by the keys ``gold_``, then on curated rows."""

    gold_max_steps: int = param("likewise `max_steps`, of the first round", ge=0)
    gold_learning_rate: float = param("likewise `learning_rate`, of the first round", ge=0)

    method: str = param("all weights, or LoRA adapters merged at the end", choices=("full", "lora"))
    lora_rank: int = param("rank of the adapters (method lora)", ge=1)
    lora_alpha: int = param("scale of the adapters (method lora)", ge=1)
