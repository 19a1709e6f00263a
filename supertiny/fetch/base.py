"""What every source of a base student yields, and the loading and checking they share."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from supertiny.errors import UserError
from supertiny.io import sha256_file

SPECIAL_KINDS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Base:
    """A loaded student and the facts about where it came from."""

    model: Any  # transformers.PreTrainedModel, float32
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    origin: dict[str, str]


def weights_sha256(files: list[Path]) -> str:
    """The one hash that stands for a model's weights.

    One file: its own SHA-256. Several shards: the SHA-256 of their ``sha256sum`` listing in name
    order, as ``LC_ALL=C sha256sum model-*-of-*.safetensors | sha256sum`` prints it.
    """
    if len(files) == 1:
        return sha256_file(files[0])
    ordered = sorted(files, key=lambda file: file.name)
    listing = "".join(f"{sha256_file(file)}  {file.name}\n" for file in ordered)
    return sha256(listing.encode()).hexdigest()


def check_sha256(found: str, expected: str, where: str, remedy: str) -> None:
    """Raises `UserError` for another hash than expected; an empty one is not checked."""
    if not expected:
        print(f"{where}: sha256 {found}, unchecked because fetch.sha256 is empty")
    elif found != expected:
        raise UserError(
            f"{where}: sha256 is {found}, expected {expected} (params.yaml: fetch.sha256); "
            f"nothing was written. {remedy}"
        )


def load_model(folder: Path, where: str, **options: Any) -> Any:
    """A float32 causal LM all of whose weights came from the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    options |= {"dtype": torch.float32, "trust_remote_code": False, "local_files_only": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), output_loading_info=True, **options
        )
    except ValueError as error:  # a model type or GGUF architecture it does not know
        raise UserError(f"{where}: transformers cannot load it: {error}") from error
    model, info = loaded
    # transformers only warns, and fills what is missing with random numbers.
    wrong = dict.fromkeys(map(str, info["missing_keys"]), "missing")
    wrong |= {str(entry[0]): "of the wrong shape" for entry in info["mismatched_keys"]}
    if wrong:
        key = min(wrong)
        raise UserError(
            f"{where}: {len(wrong)} weights do not fit config.json, such as {key} ({wrong[key]}); "
            "choose an intact model"
        )
    return model


def wrap(backend: Any, chat_template: str, **special: str) -> Any:
    """A tokenizer of the `tokenizers` package as transformers wants it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = chat_template
    return tokenizer
