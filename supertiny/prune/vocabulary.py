"""Fewer tokens: a subset of a byte-level BPE vocabulary that splits the corpus as the whole one does.

Why it does: BPE applies the lowest-ranked merge that fits, again and again. A token of the corpus
has only its merge ancestors behind it, so if they are kept, every merge the whole tokenizer applies
is there; it was the lowest-ranked of all, so it still is among fewer. Other texts fall apart into
smaller tokens, in the end into bytes, and nothing is lost.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel

from supertiny.errors import UserError
from supertiny.io import read_json

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_Merge = tuple[int, int, int]  # ids of the left part, the right part and the whole


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        UserError: no file, or no byte-level BPE, the only kind whose tokens can be left out.
    """
    path = folder / "tokenizer.json"
    state = read_json(path)
    kind = state["model"]["type"] if isinstance(state.get("model"), dict) else None
    if kind != "BPE" or '"ByteLevel"' not in json.dumps(state.get("decoder")):
        raise UserError(
            f"{path}: found a tokenizer of type {kind}, expected byte-level BPE (decoder ByteLevel);"
            " leave this model's vocabulary whole"
        )
    return Tokenizer.from_file(str(path))


def choose_tokens(
    tokenizer: Tokenizer, corpus: Iterable[str], floor: int, multiple: int = 64
) -> list[int]:
    """Ids of the tokens to keep, ascending: the place of an id in the list is its new id.

    Kept are the tokens of the corpus, every byte, every added token, the results of the first
    ``floor`` merges, and all that these are merged from. Then come further merges in order, until
    the number divides by ``multiple`` or all are kept: real tokens, since an empty row of the
    embedding would have logit 0, which can beat every other.

    Args:
        corpus: texts just as the model sees them; those of prompt and answer apart.
        floor: merges to keep whatever the corpus says; the lowest-ranked are those most frequent in
            the tokenizer's training data, so unseen names stay short.
    """
    state = json.loads(tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], _merges(state["model"])
    encoded = tokenizer.encode_batch_fast(list(corpus), add_special_tokens=False)
    wanted = {token for text in encoded for token in text.ids}
    wanted |= {vocabulary[byte] for byte in ByteLevel.alphabet() if byte in vocabulary}
    wanted |= {token["id"] for token in state["added_tokens"]}
    wanted |= {whole for _, _, whole in merges[:floor]}
    kept = _close(wanted, merges)
    for left, right, whole in merges:
        if len(kept) % multiple == 0:
            break
        if left in kept and right in kept:
            kept.add(whole)
    return sorted(kept)


def cut_tokenizer(tokenizer: Tokenizer, kept: Sequence[int]) -> Tokenizer:
    """The tokenizer with only the tokens ``kept``, renumbered by their place in it.

    Merges whose two parts and whole are kept stay, in order. Normalizer, pre-tokenizer and decoder
    stay as they are; ids in the post-processor and in the padding follow their tokens.

    Raises:
        UserError: an added token would get another id than its place; its kind is not supported.
    """
    state = json.loads(tokenizer.to_str())
    new_ids = {old: new for new, old in enumerate(kept)}
    model, old_vocabulary = state["model"], state["model"]["vocab"]
    by_id = sorted(old_vocabulary.items(), key=lambda item: item[1])
    model["vocab"] = {token: new_ids[old] for token, old in by_id if old in new_ids}
    model["merges"] = [
        pair
        for pair, ids in zip(
            model["merges"], _merges({**model, "vocab": old_vocabulary}), strict=True
        )
        if all(token in new_ids for token in ids)
    ]
    state["added_tokens"] = [
        {**token, "id": new_ids[token["id"]]} for token in state["added_tokens"]
    ]
    _renumber_processor(state["post_processor"], new_ids)
    if state["padding"] is not None:
        state["padding"]["pad_id"] = new_ids[state["padding"]["pad_id"]]
    cut = Tokenizer.from_str(json.dumps(state))
    expected = {new_ids[i]: tokenizer.id_to_token(i) for i in kept}
    moved = [token for new, token in expected.items() if cut.id_to_token(new) != token]
    if moved or cut.get_vocab_size() != len(kept):
        raise UserError(f"tokenizer: these tokens do not keep their order of ids: {moved[:5]}")
    return cut


def cut_embedding(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep only the rows ``kept`` of the embedding and the head, in place.

    The head stays tied if it was. Special ids in the config and the generation config follow their
    tokens.

    Raises:
        UserError: a special id of the model is not among those kept.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tied = head.weight is embedding.weight
    rows = torch.tensor(kept, device=embedding.weight.device)
    embedding.weight = _rows_of(embedding.weight, rows)
    embedding.num_embeddings = head.out_features = len(kept)
    if embedding.padding_idx is not None:
        embedding.padding_idx = new_ids[embedding.padding_idx]
    head.weight = embedding.weight if tied else _rows_of(head.weight, rows)
    for config in (model.config, model.generation_config):
        for key in _SPECIAL_IDS:
            setattr(config, key, _renumber(getattr(config, key), new_ids, key))
    parts: list[Any] = [model, model.base_model, model.config]
    for part in parts:
        part.vocab_size = len(kept)


def id_map(kept: Sequence[int], vocabulary: int) -> torch.Tensor:
    """New id of each old one, int64, shape (vocabulary,); -1 for a token left out."""
    result = torch.full((vocabulary,), -1)
    result[torch.tensor(kept)] = torch.arange(len(kept))
    return result


def renumber_tokenizer_config(config: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """tokenizer_config.json for the cut tokenizer; only ``added_tokens_decoder`` holds ids."""
    if "added_tokens_decoder" not in config:
        return config
    new_ids = {old: new for new, old in enumerate(kept)}
    decoder = {str(new_ids[int(old)]): to for old, to in config["added_tokens_decoder"].items()}
    return {**config, "added_tokens_decoder": decoder}


def tokens_per_character(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Tokens per Unicode code point over all texts, without the tokenizer's own special tokens."""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return sum(len(text.ids) for text in encoded) / sum(map(len, texts))


def _merges(model: Mapping[str, Any]) -> list[_Merge]:
    ids = model["vocab"]
    return [(ids[left], ids[right], ids[left + right]) for left, right in model["merges"]]


def _close(tokens: Iterable[int], merges: Iterable[_Merge]) -> set[int]:
    """The tokens and everything they can be merged from."""
    parts: dict[int, set[int]] = defaultdict(set)
    for left, right, whole in merges:
        parts[whole] |= {left, right}
    closed: set[int] = set()
    queue = list(tokens)
    while queue:
        token = queue.pop()
        if token not in closed:
            closed.add(token)
            queue += parts[token]
    return closed


def _renumber_processor(processor: Any, new_ids: Mapping[int, int]) -> None:
    """Give the special tokens of a post-processor of any kind their new ids, in place."""
    if processor is None:
        return
    for inner in processor.get("processors", []):  # Sequence
        _renumber_processor(inner, new_ids)
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new_ids[old] for old in token["ids"]]
    for key in {"sep", "cls"} & processor.keys():  # BertProcessing, RobertaProcessing
        processor[key][1] = new_ids[processor[key][1]]


def _renumber(ids: Any, new_ids: Mapping[int, int], key: str) -> Any:
    """A special id, a list of them, or None."""
    if ids is None:
        return None
    if isinstance(ids, list):
        return [_renumber(one, new_ids, key) for one in ids]
    if ids not in new_ids:
        raise UserError(f"{key}: found {ids}, which is no added token of the model's tokenizer")
    return new_ids[ids]


def _rows_of(weight: torch.nn.Parameter, rows: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach()[rows].clone(), requires_grad=weight.requires_grad)
