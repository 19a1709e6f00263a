"""A teacher LM's top-k log-probabilities along gold answers, and along its own where they differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from supertiny.calls import call_from_json
from supertiny.conversation import question
from supertiny.distill.logits import OWN, Row, capture_of, top_k, write
from supertiny.errors import UserError
from supertiny.packing import ATTENTION, IGNORED, PackedCollator, answer_logits
from supertiny.params.logits import Logits
from supertiny.sft import Encoded, encode_row
from supertiny.student import TorchStudent
from supertiny.task import Task

_SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_Query = dict[str, Any]  # a row of data/queries: id, query, call
_Answers = list[tuple[str, Encoded]]  # the id under which a row is stored, and the row


def capture(
    teacher: Path, rows: Sequence[_Query], task: Task, params: Logits, out: Path
) -> dict[str, Any]:
    """Write the log-probabilities of the teacher in folder ``teacher`` to ``out``.

    Each chosen input has one row with its gold answer under its id, and one more under its id plus
    `OWN` where the teacher was asked and answered otherwise.

    Returns:
        Metrics, flat.

    Raises:
        UserError: ``teacher`` is no model folder, or ``params.k`` is more than its vocabulary.
    """
    if not (teacher / "config.json").is_file():
        raise UserError(
            f"logits.teacher: {teacher}: no model there; run `dvc repro`, `dvc pull` or name another"
        )
    tokenizer = AutoTokenizer.from_pretrained(teacher, **_SAFE)
    configuration = capture_of(teacher, tokenizer, task, params.k)
    chosen, asked = choose(rows, params)
    gold = [(row["id"], encode_row(row, task, tokenizer)) for row in chosen]
    own, own_metrics = _own_answers(teacher, asked, task, tokenizer, params)
    # As in the rows' file, an input's own answer after its gold one.
    place = {row["id"]: number for number, row in enumerate(chosen)}
    answers = sorted(gold + own, key=lambda answer: place[answer[0].removesuffix(OWN)])
    captured = _run(teacher, answers, tokenizer, params)
    write(out, captured, configuration)
    tokens = sum(len(row.tokens) for row in captured)
    mass = sum(torch.from_numpy(row.log_probs).double().exp().sum().item() for row in captured)
    return {
        "inputs": len(chosen),
        "rows": len(captured),
        "tokens": tokens,
        "bytes_per_token": round(out.stat().st_size / tokens, 1),
        "mean_top_k_mass": round(mass / tokens, 6),
        **own_metrics,
    }


def choose(rows: Sequence[_Query], params: Logits) -> tuple[list[_Query], list[_Query]]:
    """The inputs to capture, and those of them the teacher is asked itself, both in file order.

    A larger ``own_share`` or ``rows`` keeps what a smaller one chose.
    """
    order = list(range(len(rows)))
    random.Random(params.seed).shuffle(order)
    chosen = order[: params.rows or None]
    asked = chosen[: round(params.own_share * len(chosen))]
    return [rows[at] for at in sorted(chosen)], [rows[at] for at in sorted(asked)]


def _own_answers(
    teacher: Path,
    asked: Sequence[_Query],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    params: Logits,
) -> tuple[_Answers, dict[str, float]]:
    if not asked:
        return [], {"own_inputs": 0}
    texts = TorchStudent(teacher, task).answers(
        [question(row) for row in asked], params.max_new_tokens, params.batch_size
    )
    own: _Answers = []
    equal = cut_off = 0
    for row, text in zip(asked, texts, strict=True):
        answer = tokenizer.encode(text + tokenizer.eos_token, add_special_tokens=False)
        if text == task.of(row).render_call(call_from_json(row["call"])):
            equal += 1
        elif len(answer) > params.max_new_tokens:
            cut_off += 1  # the end token would be ours and not the teacher's
        else:
            labels = encode_row(row, task, tokenizer)
            prompt = labels["input_ids"][: labels["labels"].count(IGNORED)]
            own.append((row["id"] + OWN, _row(prompt, answer)))
    share = round(equal / len(asked), 4)
    counts = {"own_inputs": len(asked), "own_rows": len(own), "own_cut_off": cut_off}
    return own, {**counts, "own_equal_gold_share": share}


def _row(prompt: list[int], answer: list[int]) -> Encoded:
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


@torch.inference_mode()
def _run(
    teacher: Path, answers: _Answers, tokenizer: PreTrainedTokenizerBase, params: Logits
) -> list[Row]:
    """One row an answer, in order; the model sees rows of similar length together."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        teacher, dtype=torch.float32, use_safetensors=True, attn_implementation=ATTENTION, **_SAFE
    )
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    pack = PackedCollator(1, tokenizer.eos_token_id)
    order = sorted(range(len(answers)), key=lambda at: len(answers[at][1]["input_ids"]))
    found: dict[int, Row] = {}
    with tqdm(total=len(order), unit="row", mininterval=1.0, disable=None) as progress:
        for start in range(0, len(order), params.batch_size):
            members = order[start : start + params.batch_size]
            logits, tokens = answer_logits(model, pack([answers[at][1] for at in members]))
            parts = (tokens, *top_k(logits, params.k, len(tokenizer)))
            lengths = [_answer_length(answers[at][1]) for at in members]
            split = zip(*(part.cpu().split(lengths) for part in parts), strict=True)
            for at, row in zip(members, split, strict=True):
                found[at] = Row(answers[at][0], *(part.numpy() for part in row))
            progress.update(len(members))
    return [found[at] for at in range(len(answers))]


def _answer_length(row: Encoded) -> int:
    return len(row["labels"]) - row["labels"].count(IGNORED)
