"""A pruned model as a plain checkpoint: config, safetensors weights and its tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from supertiny.io import read_json, replace_folder, write_json, write_text
from supertiny.prune.vocabulary import renumber_tokenizer_config

KEPT_TOKENS = "kept_tokens.json"  # old ids in the order of the new ones, for distillation
_TOKENIZER_TEXTS = ("chat_template.jinja",)  # hold no ids, so they stay as they are


def save(
    model: PreTrainedModel, tokenizer: Tokenizer, source: Path, kept: Sequence[int], out: Path
) -> None:
    """Write the model and its tokenizer to ``out``, replaced once it is whole.

    Args:
        source: folder of the model before pruning, for the tokenizer's settings.
        kept: old ids of the tokens in the order of their new ones.
    """
    with replace_folder(out) as partial:
        model.save_pretrained(partial)
        # Not through transformers, whose tokenizer classes may build their own pre-tokenizer.
        write_text(partial / "tokenizer.json", tokenizer.to_str(pretty=True))
        write_json(partial / KEPT_TOKENS, list(kept))
        settings = read_json(source / "tokenizer_config.json")
        write_json(partial / "tokenizer_config.json", renumber_tokenizer_config(settings, kept))
        for name in _TOKENIZER_TEXTS:
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
