"""Writes a base student in its one canonical form: absent or whole at every moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supertiny.errors import UserError
from supertiny.fetch.base import Base
from supertiny.io import read_json, replace_folder, write_json

TOKENIZER_CONFIG_KEYS = frozenset({
    "tokenizer_class", "backend", "bos_token", "eos_token", "pad_token", "unk_token",
    "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "extra_special_tokens",
})  # fmt: skip
CONFIG_KEYS_DROPPED = frozenset({"_name_or_path", "_model_name_or_path", "unk_token_id"})


def publish(base: Base, out: Path) -> dict[str, Any]:
    """Write the model, its tokenizer and SOURCE.json to ``out``, and return what SOURCE.json says."""
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    source = {**base.origin, "parameters": parameters}
    with replace_folder(out) as partial:
        _write_model(base, partial)
        write_json(partial / "SOURCE.json", source)
    return source


def _write_model(base: Base, folder: Path) -> None:
    """Weights, tokenizer and configs, without paths, clock times or sampling defaults."""
    ids = _special_ids(base)
    base.model.config.update(ids)
    _name_special_tokens(base.tokenizer, ids)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    config = read_json(folder / "config.json")
    for key in CONFIG_KEYS_DROPPED & config.keys():
        del config[key]
    if "rms_norm_eps" in config:  # a GGUF file holds it as float32: 9.999999747378752e-06
        config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")
    write_json(folder / "config.json", config)
    # A hub model's own file may ask for sampling or a repetition penalty, which greedy decoding
    # would obey too; here every variant is measured on the same plain decoding.
    version = {"transformers_version": config["transformers_version"]}
    write_json(folder / "generation_config.json", {**ids, **version})
    settings = read_json(folder / "tokenizer_config.json")
    kept = {key: settings[key] for key in TOKENIZER_CONFIG_KEYS & settings.keys()}
    kept["model_max_length"] = config["max_position_embeddings"]
    write_json(folder / "tokenizer_config.json", kept)


def _special_ids(base: Base) -> dict[str, int]:
    """Token ids by config key: the tokenizer's own, else the model's.

    Without one of its own pad is eos, and bos is pad.

    Raises:
        UserError: neither names an eos token.
    """
    ids = {}
    for kind in ("bos", "eos", "pad"):
        own = getattr(base.tokenizer, f"{kind}_token_id")
        ids[f"{kind}_token_id"] = own if own is not None else _first_id(base, kind)
    if ids["eos_token_id"] is None:
        raise UserError(
            "the model's config.json and its tokenizer_config.json name no eos token, so no answer "
            "would end; choose a model with one"
        )
    for kind, other in (("pad", "eos"), ("bos", "pad")):
        if ids[f"{kind}_token_id"] is None:
            ids[f"{kind}_token_id"] = ids[f"{other}_token_id"]
    return ids


def _name_special_tokens(tokenizer: Any, ids: dict[str, int]) -> None:
    """Give the tokenizer those it lacks: every prompt begins with bos, and Qwen's names none."""
    for kind in ("bos", "eos", "pad"):
        if getattr(tokenizer, f"{kind}_token") is None:
            token = tokenizer.convert_ids_to_tokens(ids[f"{kind}_token_id"])
            setattr(tokenizer, f"{kind}_token", token)


def _first_id(base: Base, kind: str) -> Any:
    value = getattr(base.model.config, f"{kind}_token_id")
    return value[0] if isinstance(value, list) else value
