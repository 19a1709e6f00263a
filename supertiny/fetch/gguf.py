"""A GGUF file: its quantized weights as float32, its tokenizer as llama.cpp would split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from supertiny.errors import UserError
from supertiny.fetch.base import SPECIAL_KINDS, Base, load_model, wrap

# Values of `tokenizer.ggml.pre` for which llama.cpp splits off every digit before its GPT-2 regex.
# transformers' GGUF reader leaves that step out.
DIGIT_PRETOKENIZERS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
DIGITS = {"type": "Digits", "individual_digits": True}


def load_gguf(weights: Path, origin: dict[str, str], scratch: Path) -> Base:
    """The student in a GGUF file, dequantized."""
    from transformers import AutoTokenizer, GgufConfig

    with weights.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UserError(f"{origin['file']}: starts with {magic!r}, expected a GGUF file (b'GGUF')")
    folder = scratch / "gguf"
    folder.mkdir()
    name = "model.gguf"
    (folder / name).symlink_to(weights.resolve())
    facts = _gguf_facts(weights)
    # Without `dequantize` the model keeps packed weights, which save_pretrained refuses.
    quantization = GgufConfig(dequantize=True)
    model = load_model(folder, origin["file"], gguf_file=name, quantization_config=quantization)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=name, local_files_only=True)
    if facts["pre"] in DIGIT_PRETOKENIZERS:
        tokenizer = _split_digits(tokenizer)
    return Base(model, tokenizer, {**origin, "licence": facts["licence"]})


def _gguf_facts(weights: Path) -> dict[str, str]:
    from gguf import GGUFReader

    fields = GGUFReader(str(weights)).fields
    keys = {"pre": "tokenizer.ggml.pre", "licence": "general.license"}
    return {
        name: str(fields[key].contents()) if key in fields else "unknown"
        for name, key in keys.items()
    }


def _split_digits(tokenizer: Any) -> Any:
    """The tokenizer with a step in front that makes every digit a word, if it has none."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = state["pre_tokenizer"]
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    if DIGITS not in steps:
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [DIGITS, *steps]}
    return wrap(
        Tokenizer.from_str(json.dumps(state)),
        tokenizer.chat_template,
        **{kind: getattr(tokenizer, kind) for kind in SPECIAL_KINDS},
    )
