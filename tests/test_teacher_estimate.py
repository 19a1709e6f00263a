"""The estimate before a recording against what a recording then asks of a real server."""

import json
from types import SimpleNamespace

import pytest
from llmserver import Reply, said, serve
from teaching import ROWS, good, params

from supertiny.task import load_task
from supertiny.teacher.asking import Stopped
from supertiny.teacher.estimate import estimate, render, summary
from supertiny.teacher.run import record

HOME = load_task("home")
QUERIES = {
    "train": ROWS,
    "dev": [{**ROWS[0], "id": "2", "query": "put the den blinds at 30"}],
    "test": [{**ROWS[0], "id": "3", "query": "den blinds to 30 now"}],
}


def perfect(posted, _):
    function = posted["tools"][0]["function"]
    asked = SimpleNamespace(request={"function": function}, messages=posted["messages"])
    return Reply(json.dumps(good(asked)).encode())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The estimate before a recording, the requests it then took, and the estimate after it."""
    folder = tmp_path_factory.mktemp("recorded")
    files = folder / "recording.jsonl.gz", folder / "live.jsonl"
    with serve(perfect) as server:
        settings = params(base_url=server.url, styles_per_row=2, usd_per_million_prompt_tokens=3.0)
        before = estimate(HOME, settings, QUERIES, *files)
        record(HOME, settings, QUERIES, *files)
        return settings, before, server.requests, estimate(HOME, settings, QUERIES, *files)


def test_as_many_questions_are_asked_as_were_estimated(recorded):
    _, before, requests, _ = recorded
    by_step = {row.step: row.missing + row.behind for row in before}
    assert by_step == {
        "train rewrite": 2, "train call": 2, "train judge": 2,
        "dev rewrite": 2, "dev call": 2, "dev judge": 2,
        "test rewrite": 2, "test answers": 1,
    }  # fmt: skip
    assert len(requests) == sum(by_step.values())


def test_rows_that_nobody_verifies_lead_to_no_questions(tmp_path):
    settings = params(styles_per_row=2, verify="read")
    found = estimate(HOME, settings, QUERIES, tmp_path / "none.jsonl.gz")
    assert {row.step: row.missing + row.behind for row in found} == {
        "train rewrite": 2, "train call": 0, "train judge": 0,
        "dev rewrite": 2, "dev call": 0, "dev judge": 0,
        "test rewrite": 2, "test answers": 1,
    }  # fmt: skip


def test_a_recording_leaves_nothing_to_ask(recorded):
    settings, _, _, after = recorded
    assert [(row.missing, row.behind, row.usd) for row in after] == [(0, 0, 0)] * len(after)
    assert sum(row.recorded for row in after) == 15
    assert "Every answer of the teacher is recorded." in render(after, settings)


def test_tokens_in_are_of_the_order_of_the_requests(recorded):
    _, before, requests, _ = recorded
    calls = [each for each in requests if each["tools"][0]["function"]["name"] == "call"]
    mean = sum(len(json.dumps(each["messages"])) / 4 for each in calls) / len(calls)
    found = next(row for row in before if row.step == "train call")
    assert found.prompt_tokens / found.behind == pytest.approx(mean, rel=0.3)


def test_money_follows_from_the_price_of_a_token(recorded):
    settings, before, _, _ = recorded
    assert [row.usd for row in before] == [row.prompt_tokens * 3 / 1e6 for row in before]
    assert f"{sum(row.usd for row in before):.2f} USD" in render(before, settings)
    assert summary(before, settings).startswith("Teacher, not recorded yet: 15 questions at most")


def test_what_depends_on_missing_answers_stands_behind_them(recorded):
    _, before, _, _ = recorded
    first = {row.step: row for row in before}
    assert first["train rewrite"].missing == 2 and first["train rewrite"].behind == 0
    assert first["train judge"].missing == 0 and first["train judge"].behind == 2


def test_a_repair_of_a_recorded_answer_is_still_to_ask(tmp_path):
    def unwilling(posted, count):
        if posted["tools"][0]["function"]["name"] == "call":
            return Reply(json.dumps(said("I cannot do that.")).encode())
        return perfect(posted, count)

    files = tmp_path / "recording.jsonl.gz", tmp_path / "live.jsonl"
    with serve(unwilling) as server:
        settings = params(base_url=server.url, styles_per_row=2, max_calls=4)
        with pytest.raises(Stopped, match="max_calls"):
            record(HOME, settings, QUERIES, *files)
    found = {row.step: row for row in estimate(HOME, settings, QUERIES, *files)}
    assert (found["train call"].recorded, found["train call"].missing) == (2, 0)
    assert found["train call repair"].missing == 2
