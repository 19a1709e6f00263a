"""Which mix of vocabulary, depth and width to cut to, under one bound on the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tqdm import tqdm

from supertiny.errors import UserError
from supertiny.prune.size import count_parameters

HEADER = ["vocabulary", "layers", "width", "parameters", "score", "chosen"]


@dataclass(frozen=True, order=True)
class Mix:
    """The size of a model along the three axes: tokens, layers, feed-forward neurons a layer."""

    vocabulary: int
    layers: int
    width: int


@dataclass(frozen=True)
class Scored:
    """A mix, its parameters and its score; of scores the highest is best."""

    mix: Mix
    parameters: int
    score: float


def mixes(
    config: Any,
    target: int,
    vocabularies: Sequence[int],
    layers: Sequence[int],
    widths: Sequence[int],
) -> list[Mix]:
    """The mixes of at most ``target`` parameters that leave no allowed room unused, in order.

    Left out is a mix below another that fits too: at least as large on every axis.

    Args:
        config: config of the whole model, Llama or Qwen2.
        vocabularies, layers, widths: allowed sizes; an axis with one size is not searched.

    Raises:
        UserError: no mix fits, an axis is empty, or a size is larger than the model's own.
    """
    whole = (config.vocab_size, config.num_hidden_layers, config.intermediate_size)
    for name, sizes, most in zip(
        ("vocabularies", "layers", "widths"), (vocabularies, layers, widths), whole, strict=True
    ):
        if not sizes or not all(1 <= size <= most for size in sizes):
            raise UserError(f"{name}: found {list(sizes)}, expected sizes from 1 to {most}")
    allowed = [Mix(*sizes) for sizes in product(set(vocabularies), set(layers), set(widths))]
    fitting = [mix for mix in allowed if _parameters(config, mix) <= target]
    if not fitting:
        smallest = min(_parameters(config, mix) for mix in allowed)
        raise UserError(
            f"target_params: found {target:,}, but the smallest allowed mix has {smallest:,}"
            " parameters; raise the target or allow smaller sizes"
        )
    return sorted(mix for mix in fitting if not any(_below(mix, other) for other in fitting))


def search(
    config: Any, candidates: Sequence[Mix], score: Callable[[Mix], float]
) -> tuple[Mix, list[Scored]]:
    """The mix of the highest score, of equals the smaller one, and the scores of all in order."""
    progress = tqdm(candidates, unit="mix", desc="search", mininterval=1.0)
    rows = [Scored(mix, _parameters(config, mix), score(mix)) for mix in progress]
    best = min(rows, key=lambda row: (-row.score, row.parameters, row.mix))
    return best.mix, rows


def table(rows: Sequence[Scored], chosen: Mix) -> list[list[Any]]:
    """Rows under `HEADER`; scores with six digits, ``chosen`` as 0 or 1."""
    return [
        [
            row.mix.vocabulary, row.mix.layers, row.mix.width,
            row.parameters, f"{row.score:.6g}", int(row.mix == chosen),
        ]
        for row in rows
    ]  # fmt: skip


def _parameters(config: Any, mix: Mix) -> int:
    return count_parameters(config, mix.vocabulary, mix.layers, mix.width)


def _below(mix: Mix, other: Mix) -> bool:
    return mix != other and (
        mix.vocabulary <= other.vocabulary
        and mix.layers <= other.layers
        and mix.width <= other.width
    )
