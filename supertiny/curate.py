"""Rejection sampling: from the teacher's traces to rows worth learning from, a reason for every other.

Each verifier is asked, without being shown the gold call, whether a rewrite means it: the teacher by its
blind calls, a student by its own, the judge by its grade. A candidate is accepted if enough of them
vouch for it, or a person who read it, and it is no near-duplicate of an accepted row, of its own split's
commands, or of anything in dev and test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supertiny.calls import ToolCall, call_from_json
from supertiny.errors import CallError, UserError
from supertiny.params.curate import Curate
from supertiny.prepare import NearDuplicates, row_id
from supertiny.review import kept_texts, read_key, undecided
from supertiny.task import Task

Row = dict[str, Any]
FUNNEL = ("asked", "valid", "vouched", "accepted")
GROUP_COLUMNS = ["group", "name", "asked", "accepted", "rejected", "failed", "accepted_rate"]


@dataclass
class Curated:
    """What became of a split's traces. Every trace is in exactly one of the first three lists.

    Attributes:
        pairs: the gold call of a rewrite against a wrong one.
        funnel: rows left after each step of `FUNNEL`; a later step counts within the earlier.
        vouched_by: valid rows that each verifier vouches for.
        decided: valid rows that a person read, and how many of them are right.
    """

    accepted: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    funnel: dict[str, int] = field(default_factory=dict)
    vouched_by: dict[str, int] = field(default_factory=dict)
    decided: tuple[int, int] = (0, 0)


def curate(
    traces: Sequence[Row],
    task: Task,
    params: Curate,
    *,
    commands: Sequence[str],
    held_out: Sequence[str],
    student: Mapping[str, ToolCall | None] | None = None,
    read: Sequence[Row] = (),
) -> Curated:
    """Accept or reject each trace of one split.

    Args:
        commands: queries of the split itself; a rewrite that is one of them teaches nothing new.
        held_out: queries that must stay unseen by this split: those of dev and test.
        student: a student's blind call by trace id, for the verifier ``student``.
        read: ``{"id", "text", "right"}``: what a person read, and whether it means its gold call;
            their word outweighs all verifiers.

    Raises:
        UserError: a verifier is asked for that has not spoken of every row.
    """
    _check_verifiers(params, student, traces, task)
    result = Curated()
    seen, unseen = NearDuplicates(params.max_similarity), NearDuplicates(params.max_similarity)
    known = {task.normalise(query) for query in commands}
    right = {read_key(row): row["right"] for row in read}
    tally: Counter[Any] = Counter()
    for query in held_out:
        unseen.add(query)
    for trace in sorted(traces, key=lambda trace: trace["id"]):
        if trace["status"] == "failed":
            result.failed.append(trace)
            continue
        reason = trace["reason"] if trace["status"] == "rejected" else ""
        if not reason:
            found = votes(trace, task, params, student)
            tally.update(name for name, vouches in found.items() if vouches)
            reason = _doubt(found, params)
            if (decided := right.get(read_key(trace))) is not None:
                tally["decided", decided] += 1
                reason = "" if decided else "read_and_wrong"
            tally["vouched"] += not reason
        if not reason and unseen.matches(trace["command"]):
            reason = "command_held_out"  # a command of train when it was recorded, and no more
        reason = reason or _repetition(trace["text"], task, seen, unseen, known)
        if reason:
            result.rejected.append({**trace, "status": "rejected", "reason": reason})
        else:
            seen.add(trace["text"])
            result.accepted.append(_sft_row(trace))
        result.pairs += _pairs(trace, task, params, accepted=not reason)
    result.vouched_by = {name: tally[name] for name in params.verifiers}
    result.decided = (tally["decided", True] + tally["decided", False], tally["decided", True])
    counts = (traces, _candidates(traces), range(tally["vouched"]), result.accepted)
    result.funnel = {name: len(rows) for name, rows in zip(FUNNEL, counts, strict=True)}
    ended = len(result.accepted) + len(result.rejected) + len(result.failed)
    assert ended == len(traces), f"{len(traces)} traces went in, {ended} came out"
    return result


def votes(
    trace: Row,
    task: Task,
    params: Curate,
    student: Mapping[str, ToolCall | None] | None = None,
    verifiers: Iterable[str] | None = None,
) -> dict[str, bool]:
    """Which of ``verifiers``, by default those of ``params``, vouch for a candidate."""
    found = {}
    for name in params.verifiers if verifiers is None else verifiers:
        if name == "call":
            found[name] = agrees(trace, task)
        elif name == "judge":
            found[name] = grade_of(trace) >= params.min_grade
        else:
            call = (student or {}).get(trace["id"])
            gold = call_from_json(trace["gold"])
            found[name] = call is not None and task.equivalent(call, gold)
    return found


def precision(
    traces: Sequence[Row],
    read: Sequence[Row],
    task: Task,
    params: Curate,
    student: Mapping[str, ToolCall | None] | None = None,
) -> dict[str, int]:
    """How far each verifier can be trusted, by rewrites that a person read.

    Verifiers that have no say in what is accepted are measured like the others, if they have spoken of
    all that was read.

    Args:
        read: ``{"id", "text", "right"}``: whether the text means the gold call of its trace. A text
            that is no candidate (any more) does not count.

    Returns:
        ``read`` and ``read_right``; by verifier, and as ``accepted`` by enough of them, how many of
        these it vouches for (``read_<name>``) and how many of those are right (``read_<name>_right``).
    """
    right = {read_key(row): row["right"] for row in read}
    known = [trace for trace in _candidates(traces) if read_key(trace) in right]
    counts = Counter({"read": len(known), "read_right": sum(right[read_key(t)] for t in known)})
    spoke = {"call": all(t["calls"] for t in known), "judge": all(t["grade"] for t in known)}
    measured = {*params.verifiers, *(name for name, has in spoke.items() if has)}
    counts.update({f"read_{name}{end}": 0 for name in measured for end in ("", "_right")})
    for trace in known:
        found = votes(trace, task, params, student, measured)
        found["accepted"] = not _doubt({name: found[name] for name in params.verifiers}, params)
        for name, vouches in found.items():
            counts[f"read_{name}"] += vouches
            counts[f"read_{name}_right"] += vouches and right[read_key(trace)]
    return dict(counts)


def agrees(trace: Row, task: Task) -> bool:
    """Whether most of a trace's blind calls mean its gold call."""
    gold = call_from_json(trace["gold"])
    found = [answer["call"] for answer in trace["calls"]]
    right = [call is not None and task.equivalent(call_from_json(call), gold) for call in found]
    return sum(right) * 2 > len(right)


def grade_of(trace: Row) -> int:
    """The lower of a trace's two grades, 1 to 5; 0 where it was not graded."""
    grade = trace["grade"] or {}
    return min(grade.get("faithful", 0), grade.get("natural", 0))


def apply_review(traces: Sequence[Row], review: Sequence[Row]) -> list[Row]:
    """Test rows from the decisions of a person who read every rewrite; no model has a say.

    A decision is ``{"id", "text", "keep", "query"?, "reason"?}``: ``text`` is the rewrite that was
    read, ``query`` what it was corrected to. One on a rewrite that there is not does nothing.

    Raises:
        UserError: a candidate without a decision, or with two.
    """
    missing = undecided(_candidates(traces), review)
    twice = [key for key, count in Counter(map(read_key, review)).items() if count > 1]
    if missing or twice:
        first = sorted(missing or [trace for trace, _ in twice])[:3]
        raise UserError(
            f"review of the test rewrites: {len(missing)} without a decision, {len(twice)} decided "
            f"twice (first: {', '.join(first)}); read the rewrites and decide on each once"
        )
    return kept_rewrites(traces, review)


def kept_rewrites(traces: Sequence[Row], review: Sequence[Row]) -> list[Row]:
    """Test rows of the candidates that a decision keeps; others, decided or not, give none."""
    kept = kept_texts(review)
    found = [trace for trace in _candidates(traces) if read_key(trace) in kept]
    by_id = sorted(found, key=lambda trace: trace["id"])
    return [_sft_row({**trace, "text": kept[read_key(trace)]}) for trace in by_id]


def _candidates(traces: Sequence[Row]) -> list[Row]:
    return [trace for trace in traces if trace["status"] == "candidate"]


def mix(commands: Sequence[Row], rewrites: Sequence[Row], share: float) -> list[Row]:
    """What students learn from: all rewrites, and as many commands as make them ``share`` of it.

    Commands are taken from the front, so their order must be a random one (that of ids is); all of
    them if there are no rewrites, or too few commands. Sorted by id.
    """
    if not rewrites:
        return list(commands)
    taken = commands[: round(len(rewrites) * (1 - share) / share)]
    return sorted([*rewrites, *taken], key=lambda row: row["id"])


def student_calls(
    traces: Sequence[Row], task: Task, model: Path, params: Curate
) -> dict[str, ToolCall | None]:
    """A trained student's blind call of each candidate by trace id; None where it is no legal call."""
    from supertiny.student import TorchStudent

    candidates = _candidates(traces)
    student = TorchStudent(model, task, precision=params.precision)
    texts = [trace["text"] for trace in candidates]
    found: dict[str, ToolCall | None] = {}
    answers = student.answers(texts, params.max_new_tokens, params.batch_size)
    for trace, answer in zip(candidates, answers, strict=True):
        try:
            found[trace["id"]] = task.parse_call(answer, trace["text"])
        except CallError:
            found[trace["id"]] = None
    return found


def group_table(traces: Sequence[Row], result: Curated) -> list[list[Any]]:
    """Rows of `GROUP_COLUMNS`, one per style and one per tool."""
    ends = {row["trace"]: "accepted" for row in result.accepted}
    ends |= {row["id"]: "rejected" for row in result.rejected}
    ends |= {row["id"]: "failed" for row in result.failed}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for trace in traces:
        for key in (("style", trace["style"]), ("tool", trace["gold"]["name"])):
            counts[key][ends[trace["id"]]] += 1
    table = []
    for (group, name), found in sorted(counts.items()):
        total = sum(found.values())
        numbers = [found["accepted"], found["rejected"], found["failed"]]
        table.append([group, name, total, *numbers, f"{found['accepted'] / total:.4f}"])
    return table


def reason_counts(rejected: Sequence[Row]) -> dict[str, int]:
    """How often each reason was given, what stands after its colon left out."""
    return dict(sorted(Counter(row["reason"].split(":")[0] for row in rejected).items()))


def _check_verifiers(
    params: Curate, student: Mapping[str, Any] | None, traces: Sequence[Row], task: Task
) -> None:
    if params.min_votes > len(set(params.verifiers)):
        raise UserError(
            f"curate.min_votes: found {params.min_votes}, but curate.verifiers names "
            f"{len(set(params.verifiers))}; no row could be accepted"
        )
    if "student" in params.verifiers and student is None:
        raise UserError(
            "curate.verifiers: found student, but there are no blind calls of a student; leave it "
            "out, or give them"
        )
    candidates = _candidates(traces)
    uncalled = sum(not trace["calls"] for trace in candidates)
    if "call" in params.verifiers and uncalled:
        raise UserError(
            f"curate.verifiers: found call, but the teacher made no blind call of {uncalled} of "
            f"{len(candidates)} rewrites (teacher.call_samples and teacher.verify say of which it "
            "does); leave it out, or ask for them"
        )
    # A judge of rows that the call agrees on has nothing to say of the others.
    ungraded = sum(not t["grade"] for t in candidates if not t["calls"] or agrees(t, task))
    if "judge" in params.verifiers and ungraded:
        raise UserError(
            f"curate.verifiers: found judge, but {ungraded} of {len(candidates)} rewrites have no "
            "grade (teacher.judge and teacher.verify say which get one); leave it out, or ask for them"
        )


def _doubt(found: Mapping[str, bool], params: Curate) -> str:
    if sum(found.values()) >= params.min_votes:
        return ""
    against = "+".join(name for name, vouches in found.items() if not vouches)
    return f"not_vouched_by_{against}"


def _repetition(
    text: str, task: Task, seen: NearDuplicates, unseen: NearDuplicates, known: set[str]
) -> str:
    if task.normalise(text) in known:
        return "is_a_command"
    if unseen.matches(text):
        return "near_duplicate_of_held_out"
    return "near_duplicate" if seen.matches(text) else ""


def _sft_row(trace: Row) -> Row:
    return {
        "id": row_id(trace["text"]),
        "query": trace["text"],
        "call": trace["gold"],
        "source": "teacher",
        "source_id": trace["source_id"],
        "command": trace["command"],
        "style": trace["style"],
        "trace": trace["id"],
        "template": "",
        "names": [],
        "slices": sorted(["rewrite", f"style_{trace['style']}"]),
    }


def _pairs(trace: Row, task: Task, params: Curate, *, accepted: bool) -> list[Row]:
    """The gold call against each different legal call that was wrong.

    Only where the rewrite is known to mean its gold: accepted, or graded well by the judge. Elsewhere
    the "wrong" call could be the right reading of a bad rewrite.
    """
    vouched = accepted or (trace["status"] == "candidate" and grade_of(trace) >= params.min_grade)
    if not vouched:
        return []
    gold = call_from_json(trace["gold"])
    wrong: list[ToolCall] = []
    for answer in trace["calls"]:
        call = call_from_json(answer["call"]) if answer["call"] is not None else gold
        if not any(task.equivalent(call, other) for other in (gold, *wrong)):
            wrong.append(call)
    return [
        {
            "query": trace["text"],
            "chosen": trace["gold"],
            "rejected": call.to_json(),
            "trace": trace["id"],
        }
        for call in wrong
    ]
