"""A student cut to a bound on its parameters: which tokens, layers and neurons go, found on dev."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import PreTrainedTokenizerFast as FastTokenizer

from supertiny.calls import call_from_json, render_value
from supertiny.errors import UserError
from supertiny.packing import ATTENTION, PackedCollator
from supertiny.params.prune import Prune
from supertiny.precision import use_bf16
from supertiny.prune import checkpoint, layers, vocabulary
from supertiny.prune.search import Mix, Scored, mixes, search
from supertiny.prune.size import count_parameters
from supertiny.sft import answer_losses, encode_row
from supertiny.task import Task

_SPECIAL = ("bos_token", "eos_token", "pad_token")
_Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """Flat metrics, the search's table, and the block influence of each layer before the cut."""

    metrics: dict[str, Any]
    tried: list[Scored]
    chosen: Mix
    influence: list[float]


@dataclass(frozen=True)
class _Subset:
    """A vocabulary to try: old ids in the order of the new ones, and its tokenizer twice."""

    kept: list[int]
    tokenizer: Tokenizer
    fast: PreTrainedTokenizerBase


def prune(
    source: Path, queries: dict[str, list[dict[str, Any]]], task: Task, params: Prune, out: Path
) -> Result:
    """Cut the model in ``source`` to ``params.target_params`` and write it to ``out``.

    Every mix of vocabulary, depth and width that fits and leaves no room is scored by the loss on
    dev, before any healing; the best is written, with the old ids of its tokens in
    ``kept_tokens.json``.

    Args:
        queries: rows of train, whose tokens are kept; of dev, on which all is measured; and of test,
            on which tokens per character are counted and nothing is chosen.

    Raises:
        UserError: no model there, or no mix fits the target.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no model there; run `dvc repro` or `dvc pull` first")
    dev = queries["dev"][: params.measure_rows]
    whole = AutoTokenizer.from_pretrained(source)
    subsets = _subsets(source, whole, task_texts(task, queries["train"]), params.vocabulary_floors)
    influence, importance = _importance(source, dev, task, whole, params.batch_rows)
    model = _load(source, ATTENTION)
    # The weights that are only measured; those that are written stay fp32.
    probe = copy.deepcopy(model).bfloat16() if use_bf16(params.precision) else model

    def cut(student: PreTrainedModel, mix: Mix) -> PreTrainedModel:
        result = copy.deepcopy(student)
        kept = layers.keep_layers(influence, mix.layers)
        vocabulary.cut_embedding(result, subsets[mix.vocabulary].kept)
        layers.cut_layers(result, kept)
        layers.cut_neurons(result, layers.keep_neurons(importance[kept], mix.width))
        return result

    def loss(mix: Mix) -> float:
        return answer_loss(
            cut(probe, mix), dev, task, subsets[mix.vocabulary].fast, params.batch_rows
        )

    fitting = mixes(model.config, params.target_params, list(subsets), params.layers, params.widths)
    chosen, tried = search(model.config, fitting, lambda mix: -loss(mix))
    subset = subsets[chosen.vocabulary]
    checkpoint.save(cut(model, chosen), subset.tokenizer, source, subset.kept, out)
    texts = {
        name: [task.of(row).render_prompt(row["query"]) for row in rows]
        for name, rows in queries.items()
    }
    config = model.config
    metrics = {
        "parameters_before": count_parameters(config),
        "parameters": count_parameters(config, chosen.vocabulary, chosen.layers, chosen.width),
        "vocabulary_before": config.vocab_size,
        "vocabulary": chosen.vocabulary,
        "layers_before": config.num_hidden_layers,
        "layers": chosen.layers,
        "width_before": config.intermediate_size,
        "width": chosen.width,
        "dev_loss_before": round(answer_loss(probe, dev, task, whole, params.batch_rows), 4),
        "dev_loss": round(-max(row.score for row in tried), 4),
    }
    for name in ("dev", "test"):
        for when, tokenizer in (
            ("_before", vocabulary.load_tokenizer(source)),
            ("", subset.tokenizer),
        ):
            share = vocabulary.tokens_per_character(tokenizer, texts[name])
            metrics[f"{name}_tokens_per_character{when}"] = round(share, 5)
    return Result(metrics, tried, chosen, influence.tolist())


def task_texts(task: Task, rows: Iterable[dict[str, Any]]) -> list[str]:
    """What a student reads and writes: prompts and answers of the rows, and the tools' own words."""
    texts = [""]
    for row in rows:
        posed = task.of(row)
        texts += [posed.render_prompt(row["query"]), posed.render_call(call_from_json(row["call"]))]
    for tool in task.tools.values():
        texts.append(f" {tool.alias}")
        for key, schema in tool.properties.items():
            values = ["", *map(render_value, schema.get("enum", ()))]
            texts += [f"\n {tool.word(key)} {value}" for value in values]
    return texts


@torch.inference_mode()
def answer_loss(
    model: PreTrainedModel,
    rows: _Rows,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    batch_rows: int,
) -> float:
    """Mean cross-entropy of the gold answers, in nats an answer: comparable between vocabularies."""
    encoded = [encode_row(row, task, tokenizer) for row in rows]
    pack = PackedCollator(1, tokenizer.pad_token_id)
    total = sum(
        answer_losses(model, pack(encoded[at : at + batch_rows])).sum().item()
        for at in range(0, len(encoded), batch_rows)
    )
    return total / len(encoded)


def _load(source: Path, attention: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation=attention, use_safetensors=True
    )
    return model.eval()


def _importance(
    source: Path, dev: _Rows, task: Task, tokenizer: PreTrainedTokenizerBase, batch_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Influence of each layer and importance of each feed-forward neuron on prompts and answers."""
    rows = [encode_row(row, task, tokenizer)["input_ids"] for row in dev]
    data = layers.batches(rows, batch_rows, tokenizer.pad_token_id)
    model = _load(source, "sdpa")
    return layers.block_influence(model, data), layers.neuron_importance(model, data)


def _subsets(
    source: Path, whole: PreTrainedTokenizerBase, corpus: list[str], floors: Sequence[int]
) -> dict[int, _Subset]:
    """The vocabularies to try by their size; the whole one if there is no floor."""
    tokenizer = vocabulary.load_tokenizer(source)
    if not floors:
        kept = list(range(tokenizer.get_vocab_size()))
        return {len(kept): _Subset(kept, tokenizer, whole)}
    found = {}
    for floor in floors:
        kept = vocabulary.choose_tokens(tokenizer, corpus, floor)
        cut = vocabulary.cut_tokenizer(tokenizer, kept)
        special = {name: getattr(whole, name) for name in _SPECIAL}
        found[len(kept)] = _Subset(kept, cut, FastTokenizer(tokenizer_object=cut, **special))
    return found
