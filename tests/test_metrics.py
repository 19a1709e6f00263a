"""Scores: intervals against published values, and what counts as right."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supertiny.calls import NO_CALL, ToolCall
from supertiny.metrics import (
    confusion,
    difference,
    paired_bootstrap,
    per_tool,
    score,
    wilson_interval,
)

ON = ToolCall("LightOn", {"area": "hall"})
DIM = ToolCall("Dim", {"area": "hall", "brightness": 30})


def rows(*calls, slices=("all",)):
    return [
        {"id": f"q{i}", "query": "x", "call": call.to_json(), "slices": list(slices)}
        for i, call in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_matches_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None)
@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= successes / n <= high
    mirrored = wilson_interval(n - successes, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_wilson_of_more_successes_than_trials_is_refused():
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


def test_bootstrap_sign_says_that_the_second_is_better():
    worse, better = [True] * 50 + [False] * 50, [True] * 80 + [False] * 20
    change, low, high = paired_bootstrap(worse, better, seed=1, rounds=2000)
    assert change == pytest.approx(0.3)
    assert 0 < low < 0.3 < high
    back = paired_bootstrap(better, worse, seed=1, rounds=2000)
    assert back[0] == pytest.approx(-0.3)
    assert back[2] < 0


def test_bootstrap_pairs_the_rows():
    # The same two shares, once on the same rows and once not: only the pairing tells them apart.
    left = [True] * 50 + [False] * 50
    assert paired_bootstrap(left, left, seed=1, rounds=500) == (0.0, 0.0, 0.0)
    _, low, high = paired_bootstrap(left, left[::-1], seed=1, rounds=500)
    assert low < -0.1 < 0.1 < high


def test_bootstrap_covers_the_true_difference_about_95_times_in_100():
    random = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        a, b = random.random(200) < 0.6, random.random(200) < 0.75
        _, low, high = paired_bootstrap(a.tolist(), b.tolist(), seed=seed, rounds=400)
        covered += low <= 0.15 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_bootstrap_of_different_row_counts_is_refused():
    with pytest.raises(ValueError, match="the same rows"):
        paired_bootstrap([True], [True, False], seed=1, rounds=100)


def test_a_perfect_system_scores_one(lamps):
    gold = [ON, DIM, NO_CALL]
    metrics, predictions = score(lamps, rows(*gold), [lamps.render_call(call) for call in gold])
    for key in ("exact_match", "tool_accuracy", "soft_score", "no_call_precision"):
        assert metrics[key] == 1.0
    assert metrics["no_call_recall"] == 1.0
    assert metrics["unparsable_rate"] == 0.0
    assert all(row["reason"] is None for row in predictions)


def test_answers_of_other_rows_are_wrong(lamps):
    gold = [ON, DIM, NO_CALL]
    metrics, _ = score(lamps, rows(*gold), [DIM, NO_CALL, ON])
    assert metrics["exact_match"] == metrics["tool_accuracy"] == metrics["soft_score"] == 0.0


def test_metrics_hold_exactly_the_agreed_keys(lamps):
    metrics, _ = score(lamps, rows(ON, slices=("b", "a")), [ON])
    assert list(metrics) == [
        "n", "exact_match", "exact_match_low", "exact_match_high", "tool_accuracy", "soft_score",
        "unparsable_rate", "no_call_precision", "no_call_recall",
        "slice_a_n", "slice_a_exact_match", "slice_b_n", "slice_b_exact_match",
    ]  # fmt: skip


def test_an_unparsable_answer_is_wrong_and_no_no_call(lamps):
    metrics, predictions = score(
        lamps, rows(NO_CALL, NO_CALL, ON, ON), [" gibberish", " no_call", " gibberish", ON]
    )
    assert metrics["exact_match"] == metrics["no_call_recall"] == metrics["unparsable_rate"] == 0.5
    assert metrics["no_call_precision"] == 1.0
    assert predictions[0]["predicted"] is None
    assert predictions[0]["soft"] == 0.0
    assert predictions[0]["reason"].startswith("unparsable: unknown tool")
    assert confusion(predictions)[-1] == ("no_call", "unparsable")


def test_a_name_is_compared_in_the_casing_of_its_query(lamps):
    # The student reads and writes lower case; the query says how the name is spelled.
    row = rows(ToolCall("LightOn", {"area": "Anna's Den"}))[0] | {"query": "Light ON in Anna's Den"}
    metrics, _ = score(lamps, [row], [" light on\n area anna's den"])
    assert metrics["exact_match"] == 1.0


def test_an_illegal_call_counts_as_unparsable(lamps):
    # A rule baseline hands over calls, not text; it gets no milder treatment.
    metrics, _ = score(lamps, rows(DIM), [ToolCall("Dim", {"brightness": 900})])
    assert metrics["unparsable_rate"] == 1.0


def test_no_call_precision_and_recall_count_the_right_things(lamps):
    gold = [NO_CALL, NO_CALL, NO_CALL, ON, ON]
    metrics, _ = score(lamps, rows(*gold), [NO_CALL, ON, ON, NO_CALL, ON])
    assert metrics["no_call_precision"] == 0.5
    assert metrics["no_call_recall"] == pytest.approx(1 / 3, abs=1e-6)


def test_no_call_never_answered_has_precision_zero(lamps):
    metrics, _ = score(lamps, rows(ON), [ON])
    assert metrics["no_call_precision"] == 0.0


def test_slices_count_their_own_rows(lamps):
    both = rows(ON, ON, slices=("easy",)) + rows(DIM, slices=("easy", "hard"))
    metrics, _ = score(lamps, both, [ON, ON, ON])
    assert (metrics["slice_easy_n"], metrics["slice_hard_n"]) == (3, 1)
    assert metrics["slice_easy_exact_match"] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics["slice_hard_exact_match"] == 0.0


def test_difference_names_each_wrong_argument(lamps):
    other = ToolCall("Dim", {"brightness": 5})
    assert difference(lamps, other, DIM) == "area missing, brightness differs"
    assert difference(lamps, DIM, other) == "area not asked for, brightness differs"
    assert difference(lamps, ON, DIM) == "other tool"
    assert difference(lamps, ToolCall("Dim", {"brightness": 30.0, "area": "hall"}), DIM) is None


def test_per_tool_groups_by_the_gold_tool(lamps):
    answers = [DIM, DIM, ToolCall("Dim", {"brightness": 1})]
    _, predictions = score(lamps, rows(ON, DIM, DIM), answers)
    lines = {line[0]: line[1:] for line in per_tool(predictions)}
    assert list(lines) == ["Dim", "LightOn"]
    assert lines["Dim"][:2] == [2, 0.5]
    assert lines["Dim"][4] == 1.0
    assert lines["LightOn"][:2] == [1, 0.0]


def test_a_missing_answer_is_refused(lamps):
    with pytest.raises(ValueError, match="found 1 for 2"):
        score(lamps, rows(ON, ON), [ON])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_scores_are_bounded_and_ordered(lamps, data):
    calls = st.sampled_from([ON, DIM, NO_CALL, ToolCall("Dim", {"brightness": 1})])
    gold = data.draw(st.lists(calls, min_size=1, max_size=12))
    answers = data.draw(st.lists(calls | st.just(" ?"), min_size=len(gold), max_size=len(gold)))
    metrics, _ = score(lamps, rows(*gold), answers)
    assert 0 <= metrics["exact_match"] <= metrics["soft_score"] <= metrics["tool_accuracy"] <= 1
    assert metrics["tool_accuracy"] + metrics["unparsable_rate"] <= 1 + 1e-5
