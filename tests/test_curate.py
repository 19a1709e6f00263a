"""Every trace ends accepted, rejected with a reason, or failed; nothing of dev or test is learned."""

import dataclasses

import pytest
from project import ROOT

from stages import curate as stage
from supertiny.calls import NO_CALL, call_from_json
from supertiny.curate import (
    apply_review,
    curate,
    grade_of,
    group_table,
    kept_rewrites,
    mix,
    precision,
    reason_counts,
    votes,
)
from supertiny.errors import UserError
from supertiny.io import read_jsonl, write_jsonl
from supertiny.params import core
from supertiny.params.curate import Curate
from supertiny.review import REVIEW
from supertiny.task import load_task

HOME = load_task("home")
PARAMS = dataclasses.replace(core.load(Curate), verifiers=("call", "judge"), min_votes=2)
GOLD = {"name": "HassSetPosition", "arguments": {"name": "den blinds", "position": 30}}
OTHER = {"name": "HassSetPosition", "arguments": {"name": "den blinds", "position": 31}}
TEXTS = ["den blinds down a bit to thirty", "I would rather have 30 on those den blinds",
         "it is bright so den blinds 30", "30 please for every one of the den blinds tonight"]  # fmt: skip


def trace(
    number, *, status="candidate", calls=(GOLD,), faithful=5, natural=5, text=None, reason=""
):
    return {
        "id": f"{number:016x}", "source_id": "s", "command": "set the den blinds to 30", "gold": GOLD,
        "style": "polite", "sample": 0, "status": status, "reason": reason,
        "text": TEXTS[number % 4] if text is None else text,
        "calls": [{"call": c} if c else {"call": None, "reason": "x"} for c in calls],
        "grade": {"faithful": faithful, "natural": natural, "reason": "r"},
    }  # fmt: skip


def run(*traces, held_out=(), commands=(), student=None, read=(), **changes):
    settings = dataclasses.replace(PARAMS, **changes)
    kinds = {"commands": commands, "held_out": held_out, "student": student, "read": read}
    return curate(traces, HOME, settings, **kinds)


def reasons(result):
    return [row["reason"] for row in result.rejected]


def test_a_good_rewrite_becomes_a_row_with_the_gold_call():
    result = run(trace(0))
    row = result.accepted[0]
    assert row["query"] == TEXTS[0] and row["call"] == GOLD and row["source"] == "teacher"
    assert row["slices"] == ["rewrite", "style_polite"] and not result.rejected


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (trace(0, calls=(OTHER,)), "not_vouched_by_call"),
        (trace(0, calls=(None,)), "not_vouched_by_call"),
        (trace(0, calls=(GOLD, OTHER)), "not_vouched_by_call"),
        (trace(0, faithful=3), "not_vouched_by_judge"),
        (trace(0, natural=1), "not_vouched_by_judge"),
        ({**trace(0), "grade": {"reason": "rejected: invalid"}}, "not_vouched_by_judge"),
        (trace(0, calls=(OTHER,), faithful=1), "not_vouched_by_call+judge"),
        (trace(0, status="rejected", reason="echo"), "echo"),
        (trace(0, text="set the den blinds to 30"), "is_a_command"),
        (trace(0, text="please put the kitchen lamp at 40"), "near_duplicate_of_held_out"),
    ],
)
def test_every_rejected_row_keeps_its_reason(bad, reason):
    result = run(
        bad, commands=["Set the den blinds to 30"], held_out=["please put kitchen lamp at 40"]
    )
    assert reasons(result) == [reason] and not result.accepted


def test_near_duplicates_of_accepted_rows_are_rejected_and_of_rejected_rows_are_not():
    wrong, first, second = trace(0, calls=(OTHER,)), trace(4), trace(8)
    result = run(wrong, first, second)
    assert [row["trace"] for row in result.accepted] == [first["id"]]
    assert reasons(result) == ["not_vouched_by_call", "near_duplicate"]


def test_any_two_of_three_verifiers_can_vouch():
    student = {f"{0:016x}": call_from_json(GOLD), f"{1:016x}": NO_CALL}
    settings = {"verifiers": ("call", "judge", "student"), "min_votes": 2, "student": student}
    result = run(trace(0, calls=(OTHER,)), trace(1, calls=(OTHER,)), trace(2), **settings)
    assert [row["trace"] for row in result.accepted] == [f"{0:016x}", f"{2:016x}"]
    assert reasons(result) == ["not_vouched_by_call+student"]
    named = dataclasses.replace(PARAMS, verifiers=("call", "judge", "student"))
    assert votes(trace(1), HOME, named, student) == {"call": True, "judge": True, "student": False}


def test_impossible_verifiers_are_a_users_error():
    with pytest.raises(UserError, match="curate.min_votes: found 3"):
        run(trace(0), min_votes=3)
    with pytest.raises(UserError, match="no blind call of 1 of 2 rewrites"):
        run(trace(0), trace(1, calls=()))
    with pytest.raises(UserError, match="1 of 2 rewrites have no grade"):
        run(trace(0), {**trace(1), "grade": None})
    # A judge of what the call agrees on was not asked about the rest.
    unasked = {**trace(1, calls=(OTHER,)), "grade": None}
    assert reasons(run(trace(0), unasked)) == ["not_vouched_by_call+judge"]
    with pytest.raises(UserError, match="no blind calls of a student"):
        run(trace(0), verifiers=("call", "student"))


def test_a_rewrite_whose_command_is_held_out_by_now_is_rejected():
    result = run(trace(0), held_out=["Set the den blinds to 30!"])
    assert reasons(result) == ["command_held_out"]


def test_what_a_person_read_is_decided_by_them():
    doubted, vouched, reworded = trace(0, calls=(OTHER,)), trace(1), trace(2, calls=(OTHER,))
    read = [{**doubted, "right": True}, {**vouched, "right": False}]
    read += [{**reworded, "text": "as it was worded before", "right": True}]
    result = run(doubted, vouched, reworded, read=read)
    assert [row["trace"] for row in result.accepted] == [doubted["id"]]
    assert reasons(result) == ["read_and_wrong", "not_vouched_by_call"]
    assert result.decided == (2, 1)
    assert result.funnel == {"asked": 3, "valid": 3, "vouched": 1, "accepted": 1}


def test_a_person_vouches_for_the_meaning_and_not_for_a_row_that_is_held_out():
    text = "please put the kitchen lamp at 40"
    found = run(trace(0, text=text), held_out=[text], read=[{**trace(0, text=text), "right": True}])
    assert reasons(found) == ["near_duplicate_of_held_out"]


def test_the_lower_grade_counts():
    assert grade_of(trace(0, faithful=5, natural=2)) == 2
    assert grade_of({"grade": None}) == 0


def test_accepted_rejected_and_failed_are_all_that_was_asked():
    traces = [
        trace(0), trace(1, status="failed", reason="truncated"), trace(2, calls=(OTHER,)),
        trace(3, status="rejected", reason="missing_value: den"), trace(4),
    ]  # fmt: skip
    result = run(*traces)
    assert (len(result.accepted), len(result.rejected), len(result.failed)) == (1, 3, 1)
    assert result.funnel == {"asked": 5, "valid": 3, "vouched": 2, "accepted": 1}
    assert result.vouched_by == {"call": 2, "judge": 3}
    assert reason_counts(result.rejected) == {
        "missing_value": 1, "near_duplicate": 1, "not_vouched_by_call": 1,
    }  # fmt: skip
    assert group_table(traces, result) == [
        ["style", "polite", 5, 1, 3, 1, "0.2000"],
        ["tool", "HassSetPosition", 5, 1, 3, 1, "0.2000"],
    ]


def test_the_order_of_traces_is_of_no_account():
    traces = [trace(n) for n in range(9)]
    assert run(*traces) == run(*traces[::-1])


def test_preference_pairs_are_right_against_wrong_where_the_rewrite_is_sound():
    sound = run(trace(0, calls=(OTHER, OTHER, GOLD, NO_CALL.to_json())))
    assert [pair["rejected"] for pair in sound.pairs] == [OTHER, NO_CALL.to_json()]
    assert all(pair["chosen"] == GOLD and pair["query"] == TEXTS[0] for pair in sound.pairs)
    assert not run(trace(0, calls=(OTHER,), faithful=2)).pairs
    assert not run(trace(0, calls=(OTHER,), status="rejected", reason="echo")).pairs
    assert not run(trace(0, calls=(None,))).pairs


# -- the review of test


def decision(number, **changes):
    return {"id": f"{number:016x}", "text": TEXTS[number % 4], "keep": True, **changes}


def test_a_review_keeps_drops_and_corrects():
    traces = [trace(0), trace(1), trace(2), trace(3, status="rejected", reason="echo")]
    decisions = [
        decision(0),
        decision(1, keep=False, reason="nobody says it"),
        decision(2, query="den blinds at 30 now"),
    ]
    rows = apply_review(traces, decisions)
    assert [row["query"] for row in rows] == [TEXTS[0], "den blinds at 30 now"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0], "1 without a decision"),
        ([0, 1, 1], "1 decided twice"),
    ],
)
def test_every_rewrite_of_test_is_decided_on_once(ids, message):
    decisions = [decision(n) for n in ids]
    with pytest.raises(UserError, match=message):
        apply_review([trace(0), trace(1)], decisions)


def test_a_decision_on_a_rewrite_that_is_not_asked_for_does_nothing():
    rows = apply_review([trace(0)], [decision(0), decision(1)])
    assert [row["query"] for row in rows] == [TEXTS[0]]


def test_a_rewrite_made_anew_under_the_same_id_has_not_been_read():
    with pytest.raises(UserError, match="1 without a decision"):
        apply_review([trace(0, text="something else about the den blinds")], [decision(0)])
    assert kept_rewrites([trace(0), trace(1, text="another")], [decision(0), decision(1)]) == (
        apply_review([trace(0)], [decision(0)])
    )


# -- what students learn from


def row(name, query="q"):
    return {"id": name, "query": query}


@pytest.mark.parametrize(("share", "commands"), [(0.1, 18), (0.5, 2), (1.0, 0), (0.01, 30)])
def test_the_mix_has_its_share_of_rewrites_as_far_as_commands_go(share, commands):
    gold, rewrites = [row(f"{n:02}") for n in range(30)], [row("a"), row("001")]
    mixed = mix(gold, rewrites, share)
    assert [r for r in mixed if r in gold] == gold[:commands]
    assert len(mixed) == commands + 2 and mixed == sorted(mixed, key=lambda r: r["id"])


def test_without_rewrites_students_learn_from_all_commands():
    gold = [row(f"{n}") for n in range(5)]
    assert mix(gold, [], 0.5) == gold


def test_the_stage_lets_no_split_learn_what_another_is_tested_with(tmp_path, monkeypatch):
    """Rewrites of train like a dev rewrite, a dev or a test input; rewrites of dev like a command."""
    home = {"name": "HassSetPosition", "arguments": {"name": "den blinds", "position": 30}}
    unlike = "30 please for every one of the den blinds tonight"
    texts = {
        "test": ["kindly lower den blinds to 30"],
        "dev": ["it is bright so den blinds 30", "blinds of the den to 30 percent now"],
        "train": ["so it is bright den blinds 30", "to 30 lower kindly den blinds",
                  "den blinds 30 asked in dev", unlike],
    }  # fmt: skip
    asked = {
        "test": "the den blinds to 30 asked in test",
        "dev": "den blinds 30 asked in dev",
        "train": "blinds of the den to 30 percent",
    }
    for name in ("tasks", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for split, query in asked.items():
        row_ = {"id": split, "query": query, "call": home, "source": "s", "slices": []}
        write_jsonl(f"data/queries/{split}.jsonl", [row_])
        traces = [
            {**trace(n, text=text), "id": f"{split}{n}"} for n, text in enumerate(texts[split])
        ]
        write_jsonl(f"data/teacher/{split}.jsonl", traces)
    reviewed = [{"id": "test0", "text": texts["test"][0], "keep": True}]
    monkeypatch.setattr(stage, "decisions", lambda task, name: reviewed if name == REVIEW else [])
    stage.main(dataclasses.replace(PARAMS, verifiers=("judge",), min_votes=1, rewrite_share=0.5))
    found = {
        split: [row["query"] for row in read_jsonl(f"data/curated/{split}.rewrites.jsonl")]
        for split in texts
    }
    assert found == {"test": texts["test"], "dev": texts["dev"][:1], "train": [unlike]}
    learned = {row["query"] for row in read_jsonl("data/curated/train.jsonl")}
    assert learned == {unlike, asked["train"]}


# -- how far a verifier can be trusted


def test_precision_is_that_of_the_rewrites_a_person_read():
    traces = [trace(0), trace(1, calls=(OTHER,)), trace(2), trace(3, faithful=1)]
    read = [{"id": t["id"], "text": t["text"], "right": n != 0} for n, t in enumerate(traces)]
    stale = {"id": traces[0]["id"], "text": "another text", "right": True}
    found = precision(traces, [*read, stale], HOME, dataclasses.replace(PARAMS, min_votes=1))
    assert found == {
        "read": 4, "read_right": 3,
        "read_call": 3, "read_call_right": 2,  # of 0, 2, 3
        "read_judge": 3, "read_judge_right": 2,  # of 0, 1, 2
        "read_accepted": 4, "read_accepted_right": 3,
    }  # fmt: skip
    nobody = precision(traces, [], HOME, PARAMS)
    assert nobody == dict.fromkeys(nobody, 0) and nobody.keys() >= {"read", "read_judge_right"}
    both = precision(traces, read, HOME, dataclasses.replace(PARAMS, min_votes=2))
    assert (both["read_accepted"], both["read_accepted_right"]) == (2, 1)


def test_a_verifier_without_a_say_is_measured_if_it_spoke_of_all_that_was_read():
    student = {trace(n)["id"]: call_from_json(GOLD) for n in (0, 1)}
    settings = dataclasses.replace(PARAMS, verifiers=("student",), min_votes=1)
    traces = [trace(0), trace(1, calls=(OTHER,)), {**trace(2), "calls": [], "grade": None}]
    read = [{**t, "right": True} for t in traces]
    found = precision(traces, read[:2], HOME, settings, student)
    assert (found["read_call"], found["read_judge"], found["read_student"]) == (1, 2, 2)
    assert found["read_accepted"] == 2  # nobody counts the calls
    assert "read_call" not in precision(traces, read, HOME, settings, student)
