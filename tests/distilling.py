"""Small teachers, captures of them, and students with a cut vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import LESSONS
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny.calls import call_from_json
from supertiny.io import write_json
from supertiny.params.logits import Logits
from supertiny.prune.checkpoint import save
from supertiny.prune.vocabulary import choose_tokens, cut_embedding, cut_tokenizer, load_tokenizer
from supertiny.task import Task

ROWS: list[dict[str, Any]] = [{"id": f"row{at}", **row} for at, row in enumerate(LESSONS)]
# The taught model answers "on now" with another call than this one.
DISPUTED = {**ROWS[5], "call": {"name": "Dim", "arguments": {"brightness": 7}}}
CAPTURE = Logits(
    teacher="", seed=1, rows=0, k=16, own_share=0.0, max_new_tokens=24, batch_size=4
)  # fmt: skip


def texts(rows: Iterable[dict[str, Any]], task: Task, tokenizer: Any) -> list[str]:
    """Prompts and answers apart, as a model sees them."""
    prompts = [tokenizer.bos_token + task.render_prompt(row["query"]) for row in rows]
    calls = [task.render_call(call_from_json(row["call"])) for row in rows]
    return prompts + [call + tokenizer.eos_token for call in calls]


def cut_student(
    source: Path, rows: Sequence[dict[str, Any]], task: Task, out: Path, seed: int = 0
) -> Path:
    """A model like ``source`` with new random weights and only the tokens that the rows need."""
    whole = load_tokenizer(source)
    names = AutoTokenizer.from_pretrained(source)
    kept = choose_tokens(whole, texts(rows, task, names), floor=0, multiple=1)
    assert len(kept) < whole.get_vocab_size() - 50, "next to nothing was cut"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoModelForCausalLM.from_pretrained(source).config, dtype=torch.float32
    )
    cut_embedding(model, kept)
    save(model, cut_tokenizer(whole, kept), source, kept, out)
    write_json(out / "kept_tokens.json", kept)
    return out
