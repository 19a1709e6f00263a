"""A call's confidence: where the raw score comes from, what the calibration makes of it, and a stage."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from conftest import LESSONS
from hypothesis import given
from hypothesis import strategies as st

from stages import confidence as confidence_stage
from supertiny import confidence_fit as fitting
from supertiny.calls import ToolCall
from supertiny.confidence import Calibration, Prediction, raw_score, read_calibration
from supertiny.decoding import Greedy, log_probabilities
from supertiny.errors import CallError, UserError
from supertiny.io import read_json, read_tsv, write_jsonl
from supertiny.params.confidence import Confidence
from supertiny.runtime import Answer, OnnxStudent

QUERIES = [lesson["query"] for lesson in LESSONS] + ["lamp off", "hall 7", "dim it", "off it to 5"]
CURVE = Calibration(intercept=0.0, slope=1.0, threshold=0.8)
PARAMS = Confidence(
    min_accuracy=0.9, folds=5, seed=1, batch_size=32, max_new_tokens=64, threads=1
)  # fmt: skip


def calibrated(folder, out, curve=CURVE):
    shutil.copytree(folder, out)
    values = {"intercept": curve.intercept, "slope": curve.slope, "threshold": curve.threshold}
    (out / "confidence.json").write_text(json.dumps(values))
    return OnnxStudent(out)


@pytest.fixture(scope="module")
def sure(taught_onnx, tmp_path_factory):
    return calibrated(taught_onnx, tmp_path_factory.mktemp("sure") / "model")


@pytest.fixture(scope="module")
def free(taught_onnx):
    return OnnxStudent(taught_onnx, constrained=False)


@pytest.mark.parametrize("query", ["dim it to 30", "lamp off"])
def test_the_log_probabilities_are_those_of_the_tokens_chosen(free, query):
    prompt = free.encode(query)
    greedy = Greedy(free.engine, [prompt], 64, scored=True).finish()
    answer = [*greedy.ids(), *free.end_ids]
    logits = free.logits(prompt, answer).astype(np.float64)
    wanted = [z[token] - math.log(np.exp(z).sum()) for z, token in zip(logits, answer, strict=True)]
    assert len(set(answer)) > 3  # else a token at the wrong place could not be seen
    assert greedy.log_probabilities() == pytest.approx(wanted, abs=1e-4)


def test_a_row_of_a_batch_has_the_scores_it_has_alone(free):
    prompts = [free.encode(query) for query in ("dim it to 30", "dim to 30 it")]
    batch = Greedy(free.engine, prompts, 64, scored=True).finish()
    for row, prompt in enumerate(prompts):
        alone = Greedy(free.engine, [prompt], 64, scored=True).finish()
        assert batch.log_probabilities(row) == pytest.approx(alone.log_probabilities(), abs=1e-4)
    assert len(batch.ids(0)) != len(batch.ids(1))  # one of them was filled up


def test_the_grammar_does_not_change_how_likely_a_token_is(sure, free):
    """Only forced tokens lack: those the model alone would have had to choose."""
    for query in QUERIES[:4]:
        prompt = sure.encode(query)
        guided = Greedy(sure.engine, [prompt], 64, sure.grammar, scored=True).finish()
        alone = Greedy(free.engine, [prompt], 64, scored=True).finish()
        assert guided.ids() == alone.ids()
        found, every = guided.log_probabilities(), alone.log_probabilities()
        assert 0 < len(found) <= len(every)
        assert all(np.abs(every - value).min() < 1e-4 for value in found)


def test_a_token_that_the_grammar_puts_in_place_of_another_counts_as_unlikely(tiny_onnx):
    """A model of random weights, whose own first choice is never a call."""
    student = OnnxStudent(tiny_onnx)
    guided = Greedy(student.engine, [student.encode("on")], 64, student.grammar, scored=True)
    free = Greedy(student.engine, [student.encode("on")], 64, scored=True)
    assert guided.finish().log_probabilities()[0] < free.finish().log_probabilities()[0] - 0.01


def test_an_answer_decoded_again_has_the_score_of_its_second_decoding(tiny_onnx):
    student = OnnxStudent(tiny_onnx)
    queries = [f"dim it to {number}" for number in (10, 25, 47)]
    assert len({len(student.encode(query)) for query in queries}) == 1
    batch = student.scored_answers(queries, 16)
    alone = [student.scored_answers([query], 16)[0] for query in queries]
    assert batch == alone
    assert len({answer.score for answer in alone}) == 3


def test_log_probabilities_of_large_logits_stay_finite():
    found = log_probabilities(np.array([[1000.0, 0.0], [-5.0, -5.0]], dtype=np.float32), [1, 0])
    assert found == pytest.approx([-1000.0, -math.log(2)])


def test_predict_carries_the_confidence_alone_in_a_batch_and_in_a_stream(sure):
    many = sure.predict_many(QUERIES)
    for query, among in zip(QUERIES, many, strict=True):
        alone, stream = sure.predict(query), sure.stream(query)
        list(stream)
        assert stream.prediction == alone == among
        assert stream.prediction.confidence == pytest.approx(alone.confidence, abs=1e-4)
        assert among.confidence == pytest.approx(alone.confidence, abs=0.05)
        assert 0 <= alone.confidence <= 1
        assert alone.ask_teacher == (alone.confidence < CURVE.threshold)
    assert len({prediction.ask_teacher for prediction in many}) == 2
    confidence = dict(zip(QUERIES, (p.confidence for p in many), strict=True))
    assert confidence["dim it to 30"] > confidence["off it to 5"]  # which it was not taught


def test_without_a_calibration_nothing_is_said(taught_onnx):
    prediction = OnnxStudent(taught_onnx).predict("dim it to 30")
    assert (prediction.confidence, prediction.ask_teacher) == (None, None)


def test_a_prediction_equals_its_call():
    call = ToolCall("Dim", {"brightness": 30})
    prediction = Prediction("Dim", {"brightness": 30}, 0.5, True)
    assert prediction == call and call == prediction
    assert prediction != ToolCall("Dim", {"brightness": 31}) and prediction != "Dim"
    assert prediction.to_json() == call.to_json()


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=9))
def test_confidence_rises_with_the_score_and_stays_a_share(scores):
    found = [CURVE.confidence(score) for score in sorted(scores)]
    assert found == sorted(found)
    assert all(0 <= confidence <= 1 for confidence in found)


def test_the_threshold_itself_is_enough():
    edge = Calibration(0.0, 1.0, threshold=0.5)
    assert edge.predict(ToolCall("no_call"), 0.0).ask_teacher is False
    assert edge.predict(ToolCall("no_call"), -1e-9).ask_teacher is True


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=9))
def test_a_raw_score_is_the_log_odds_of_the_whole_answer(values):
    share = math.exp(sum(values))
    if 1e-6 < share < 0.999:
        assert CURVE.confidence(raw_score(np.array(values))) == pytest.approx(share, rel=1e-6)


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=9))
def test_a_raw_score_is_a_finite_number_and_falls_with_each_doubt(values):
    score = raw_score(np.array(values))
    assert math.isfinite(score)
    assert raw_score(np.array([*values, -5.0])) < score


@pytest.mark.parametrize(
    "text", ["[]", '{"slope": 1}', '{"slope": "1", "intercept": 0, "threshold": 0}', "{"]
)
def test_a_broken_calibration_is_named(tmp_path, text):
    (tmp_path / "confidence.json").write_text(text)
    with pytest.raises(UserError, match=r"confidence.json"):
        read_calibration(tmp_path)


def drawn(count, seed):
    """Scores, and answers right as often as a known curve says."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(2, 3, count)
    return scores, rng.random(count) < 1 / (1 + np.exp(-(1.0 + 0.5 * scores)))


def test_the_fit_finds_the_curve_that_made_the_answers():
    scores, right = drawn(20_000, 1)
    found = fitting.fit(scores, right, 0.9)
    assert (found.intercept, found.slope) == pytest.approx((1.0, 0.5), abs=0.06)
    raw = 1 / (1 + np.exp(-scores))
    assert fitting.calibration_error(fitting.apply(found, scores), right) < 0.02
    assert fitting.calibration_error(raw, right) > 0.05


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_answers_that_a_score_separates_give_a_finite_curve(share):
    scores = np.linspace(-9, 9, 40)
    found = fitting.fit(scores, np.arange(40) >= 40 * (1 - share), 0.9)
    assert math.isfinite(found.intercept) and abs(found.slope) < 100


TIES = st.lists(st.tuples(st.integers(0, 9).map(lambda n: n / 10), st.booleans()), max_size=30)


@given(TIES, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_no_lower_threshold_keeps_the_accuracy(pairs, wanted):
    confidences = np.array([confidence for confidence, _ in pairs])
    right = np.array([good for _, good in pairs], dtype=bool)
    found = fitting.choose_threshold(confidences, right, wanted)
    good = []
    for threshold in sorted(set(confidences.tolist())):
        kept = right[confidences >= threshold]
        if kept.sum() / (len(kept) + 1) >= wanted:  # with one wrong answer more
            good.append(threshold)
    assert found == pytest.approx(good[0] if good else 1.0, abs=1e-6)
    assert not good or found <= good[0]  # else rounding would drop the last one kept


@given(TIES)
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    scores = np.array([score for score, _ in pairs])
    right = np.array([good for _, good in pairs], dtype=bool)
    wins = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    assert fitting.auroc(scores, right) == pytest.approx(np.mean(wins) if wins else 0.5)


def test_an_answer_does_not_judge_itself():
    """Turned about, a row changes the confidences of the other folds and not its own."""
    scores, right = drawn(60, 2)
    before, _ = fitting.cross_fit(scores, right, PARAMS)
    right[7] = ~right[7]
    after, _ = fitting.cross_fit(scores, right, PARAMS)
    same = before == after
    assert same[7] and same.sum() == 60 / PARAMS.folds


def test_bins_hold_every_answer_once_and_rise():
    scores, right = drawn(95, 3)
    table = fitting.reliability(fitting.apply(CURVE, scores), right)
    assert sum(n for _, _, n in table) == 95 and len(table) == fitting.BINS
    assert [mean for mean, _, _ in table] == sorted(mean for mean, _, _ in table)
    assert sum(share * n for _, share, n in table) == pytest.approx(right.sum(), abs=1e-3)


def test_metrics_are_of_answers_not_seen_and_of_all_inputs():
    scores, right = drawn(3_000, 4)
    curve, metrics, table = fitting.calibrate(scores, right, 4_000, PARAMS)
    assert metrics["n"] == 4_000
    assert metrics["accuracy"] == pytest.approx(right.sum() / 4_000, abs=1e-6)
    kept = fitting.apply(curve, scores) >= curve.threshold
    assert metrics["coverage"] == pytest.approx(kept.sum() / 4_000, abs=0.03)
    assert metrics["accuracy_answered"] == pytest.approx(0.9, abs=0.02)
    assert metrics["ece"] < metrics["ece_raw"]
    assert sum(n for _, _, n in table) == 3_000


@pytest.mark.parametrize("right", [[], [False] * 12, [True] * 12])
def test_dev_with_one_kind_of_answer_has_finite_metrics(right):
    scores = np.linspace(-3, 0, len(right))
    _, metrics, _ = fitting.calibrate(scores, np.array(right, dtype=bool), 12, PARAMS)
    json.dumps(metrics, allow_nan=False)
    # All right: every answer is given but those less sure than any that their fit had seen.
    assert metrics["coverage"] > 0.8 if right and right[0] else metrics["coverage"] == 0


def test_only_legal_calls_are_judged(lamps):
    dim = {"name": "Dim", "arguments": {"brightness": 30}}
    rows = [{"query": "dim it to 30", "call": dim}] * 5
    answers = [
        Answer([], " dim\n brightness 30", True, -1.0),
        Answer([], " dim\n brightness 31", True, -2.0),
        Answer([], " dance", True, -3.0),
        Answer([], " dim\n brightness 30", False, -4.0),
        CallError("query is blank"),
    ]
    scores, right = fitting.judge(lamps, rows, answers)
    assert (scores.tolist(), right.tolist()) == ([-1.0, -2.0], [True, False])


def test_the_stage_fits_the_answers_of_the_variant_that_ships(
    lamps, taught_onnx, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(confidence_stage, "task_name", lambda: lamps.name)
    monkeypatch.setattr(confidence_stage, "load_task", {lamps.name: lamps}.get)
    known = [lesson for lesson in LESSONS if lesson["query"].islower()]
    rows = known * 6 + [{"query": "off it to 5", "call": LESSONS[0]["call"]}] * 4
    write_jsonl("data/queries/dev.jsonl", rows)
    shutil.copytree(taught_onnx, "models/onnx/int8")
    monkeypatch.setattr("sys.argv", ["confidence", "int8"])
    confidence_stage.main(PARAMS)
    metrics = read_json("metrics/confidence.json")
    assert (metrics["n"], metrics["accuracy"]) == (28, round(24 / 28, 6))
    assert metrics["auroc"] == 1.0
    table = read_tsv("metrics/confidence.tsv")
    assert sum(int(line["n"]) for line in table) == 28
    shutil.copyfile("models/confidence/confidence.json", "models/onnx/int8/confidence.json")
    student = OnnxStudent("models/onnx/int8")
    assert student.calibration.threshold == metrics["threshold"]
    assert student.predict("dim it to 30").ask_teacher is False
    assert student.predict("off it to 5").ask_teacher is True
