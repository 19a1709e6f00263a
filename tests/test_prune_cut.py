"""The cut model fits its bound, is the best of what was tried, and knows what the texts need."""

import dataclasses
import math

import pytest
from conftest import LESSONS
from transformers import AutoModelForCausalLM, AutoTokenizer

from supertiny.errors import UserError
from supertiny.io import read_json, sha256_file
from supertiny.packing import ATTENTION
from supertiny.params.prune import Prune
from supertiny.prune.checkpoint import KEPT_TOKENS
from supertiny.prune.cut import answer_loss, prune, task_texts
from supertiny.student import TorchStudent

WHOLE = Prune(
    target_params=10**9, vocabulary_floors=(50,), layers=(2,), widths=(256,), measure_rows=100,
    batch_rows=3, precision="fp32",
)  # fmt: skip
ROWS = [{"id": str(at), **lesson} for at, lesson in enumerate(LESSONS)]
QUERIES = {"train": ROWS, "dev": ROWS, "test": ROWS}


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION)
    return model, AutoTokenizer.from_pretrained(folder)


def test_measuring_in_bf16_changes_the_measure_and_not_the_weights(taught_model, lamps, tmp_path):
    exact, rough = (
        prune(
            taught_model,
            QUERIES,
            lamps,
            dataclasses.replace(WHOLE, precision=name),
            tmp_path / name,
        )
        for name in ("fp32", "bf16")
    )
    losses = [result.tried[0].score for result in (exact, rough)]
    assert losses[0] != losses[1] and math.isclose(*losses, rel_tol=0.1, abs_tol=0.05)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in ("fp32", "bf16")]
    assert weights[0] == weights[1]


def test_fewer_tokens_alone_change_no_answer_and_no_loss(taught_model, lamps, tmp_path):
    result = prune(taught_model, QUERIES, lamps, WHOLE, tmp_path / "cut")
    assert result.metrics["vocabulary"] < result.metrics["vocabulary_before"]
    assert math.isclose(
        result.metrics["dev_loss"], result.metrics["dev_loss_before"], rel_tol=0.3, abs_tol=0.05
    )  # the tokens left out take their share of the probability with them
    queries = [row["query"] for row in ROWS]
    before, after = (
        TorchStudent(folder, lamps).answers(queries, 24, 4)
        for folder in (taught_model, tmp_path / "cut")
    )
    assert before == after


def test_the_least_loss_on_dev_is_written_and_fits(taught_model, lamps, tmp_path):
    whole = prune(taught_model, QUERIES, lamps, WHOLE, tmp_path / "whole").metrics["parameters"]
    params = dataclasses.replace(
        WHOLE, target_params=whole - 20_000, layers=(1, 2), widths=(64, 128, 192, 256)
    )
    result = prune(taught_model, QUERIES, lamps, params, tmp_path / "cut")
    assert len(result.tried) > 1
    assert max(result.tried, key=lambda row: row.score).mix == result.chosen
    model, tokenizer = loaded(tmp_path / "cut")
    assert model.num_parameters() == result.metrics["parameters"] <= params.target_params
    again = answer_loss(model, ROWS, lamps, tokenizer, batch_rows=2)
    assert math.isclose(again, result.metrics["dev_loss"], rel_tol=1e-3)


def test_kept_tokens_name_the_same_tokens_in_both_vocabularies(taught_model, lamps, tmp_path):
    prune(taught_model, QUERIES, lamps, WHOLE, tmp_path / "cut")
    kept = read_json(tmp_path / "cut" / KEPT_TOKENS)
    _, old = loaded(taught_model)
    _, new = loaded(tmp_path / "cut")
    assert old.convert_ids_to_tokens(kept) == new.convert_ids_to_tokens(list(range(len(kept))))
    for text in task_texts(lamps, ROWS):
        ids = [kept[token] for token in new.encode(text, add_special_tokens=False)]
        assert ids == old.encode(text, add_special_tokens=False)


def test_without_floors_the_vocabulary_stays_whole(taught_model, lamps, tmp_path):
    params = dataclasses.replace(WHOLE, vocabulary_floors=())
    metrics = prune(taught_model, QUERIES, lamps, params, tmp_path / "cut").metrics
    assert metrics["vocabulary"] == metrics["vocabulary_before"]
    assert metrics["parameters"] == metrics["parameters_before"]


def test_a_missing_model_is_refused(lamps, tmp_path):
    with pytest.raises(UserError, match="no model there"):
        prune(tmp_path / "none", QUERIES, lamps, WHOLE, tmp_path / "cut")
