"""The task of any tools: its rules are the leaderboard's, its rows what the wheel has, no tool leaks."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from supertiny.calls import NO_CALL, ToolCall, call_from_json
from supertiny.errors import CallError
from supertiny.params import core
from supertiny.params.prepare import Prepare
from supertiny.prepare import draw_splits, leakage
from supertiny.profile import apply_profile
from supertiny.task import load_task
from tasks.functions import gold, make_rows
from tasks.functions.equivalence import accepts, equivalent
from tasks.functions.renaming import renamed
from tasks.functions.variants import varied

TASK = load_task("functions")
ROWS = gold.read_rows()
LIVE = [row for row in ROWS if row["source"] != gold.WRITTEN]
MUTATED = 5_000


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """What the profile gives, and its params."""
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(Path("params.yaml").read_text())
    apply_profile("functions", file)
    params = core.load(Prepare, file)
    return draw_splits(gold.load(params), TASK, params), params


def test_the_splits_are_those_of_the_documentation(splits):
    (rows, refused), params = splits
    text = Path("docs/functions.md").read_text()
    for split in ("train", "dev", "test"):
        kinds = Counter(row["source"] for row in rows[split])
        cells = [
            len(rows[split]),
            *(kinds[kind] for kind in (*make_rows.LIVE, gold.WRITTEN, "variants")),
        ]
        assert f"| {split} | {' | '.join(f'{n:,}' for n in cells)} |" in text
    too_long = sum(count for reason, count in refused.items() if reason.endswith("too_long"))
    assert f"{too_long} rows with a prompt of more than {params.max_prompt_bytes:,} bytes" in text
    longest = max(
        len(TASK.of(r).render_prompt(r["query"]).encode()) for r in sum(rows.values(), [])
    )
    assert params.max_prompt_bytes - 500 < longest <= params.max_prompt_bytes


def test_no_tool_called_in_test_or_dev_is_called_in_train(splits):
    (rows, _), params = splits
    called = {
        split: {row["call"]["name"] for row in found} - {NO_CALL.name}
        for split, found in rows.items()
    }
    assert min(map(len, called.values())) > 20
    assert not called["train"] & (called["test"] | called["dev"])
    sets = {
        split: {frozenset(tool["name"] for tool in row["tools"]) for row in found}
        for split, found in rows.items()
    }
    for held_out in sets["test"] | sets["dev"]:
        assert not any(len(held_out & s) >= 0.67 * len(held_out | s) for s in sets["train"])
    leaks = leakage(rows, params.max_similarity)
    assert not any(value for key, value in leaks.items() if key.startswith("leak_"))
    # What the check above would say if one row of test were in train as well.
    spoiled = {**rows, "train": [*rows["train"], rows["test"][0]]}
    assert leakage(spoiled, params.max_similarity)["leak_test_near_duplicates"] == 1


def test_variants_are_of_train_and_offer_tools_of_train(splits):
    (rows, _), params = splits
    clusters = dict(zip(map(id, LIVE), gold.cluster_names(LIVE), strict=True))
    held_out = {row["template"] for split in ("dev", "test") for row in rows[split]}
    train = [row for row in ROWS if clusters.get(id(row)) not in held_out]
    # Names differ, what is said of a tool stays.
    shown = {tool.get("description") for row in train for tool in row["tools"]}
    asked = {row["query"] for row in train}
    found = [row for row in rows["train"] if row["source"] == "variants"]
    assert len(found) > len(train)
    assert all(
        {row["source"] for row in rows[split]} == set(make_rows.LIVE) for split in ("dev", "test")
    )
    assert all(row["query"] in asked for row in found)
    assert all(tool.get("description") in shown for row in found for tool in row["tools"])


def test_renamed_tools_are_the_same_tools_and_their_call_is_right():
    unlike, rng = Counter(), random.Random(1)
    for row in [row for row in ROWS if row["call"] != NO_CALL.to_json()][::3]:
        for _ in range(6):
            other = renamed(row, rng)
            call = call_from_json(other["call"])
            TASK.of(other).validate(call)
            assert TASK.of(other).equivalent(call, call) and other["names"] == [call.name]
            assert list(call.arguments.values()) == list(row["call"]["arguments"].values())
            for old, new in zip(row["tools"], other["tools"], strict=True):
                assert old.get("description") == new.get("description")
                was, now = old["parameters"], new["parameters"]
                assert list(was["properties"].values()) == list(now["properties"].values())
                assert len(set(now["required"])) == len(was["required"])
            unlike["tools"] += call.name != row["call"]["name"]
            unlike["meaningless"] += re.fullmatch("[a-z]+_[0-9]+", call.name) is not None
            unlike["arguments"] += call.arguments.keys() != row["call"]["arguments"].keys()
            unlike["rows"] += 1
    assert unlike["tools"] > 0.5 * unlike["rows"] and unlike["arguments"] > 0.2 * unlike["rows"]
    assert 0.04 < unlike["meaningless"] / unlike["rows"] < 0.12


def test_names_that_would_be_the_same_stay_as_they_are():
    parameters = {"type": "object", "properties": {"a_b": {}, "aB": {}}, "required": ["aB"]}
    tools = [{"name": name, "parameters": parameters} for name in ("get.user", "get_user")]
    row = {"tools": tools, "call": NO_CALL.to_json()}
    for seed in range(50):
        other = renamed(row, random.Random(seed))["tools"]
        assert len({tool["name"] for tool in other}) == 2
        assert all(len(tool["parameters"]["properties"]) == 2 for tool in other)


def test_train_calls_many_times_more_names_than_tools(splits):
    (rows, _), _ = splits
    kinds = {"variants": set(), "own": set()}
    for row in rows["train"]:
        kinds["variants" if row["source"] == "variants" else "own"].add(row["call"]["name"])
    assert len(kinds["own"]) > 500 and len(kinds["variants"]) > 3 * len(kinds["own"])


def test_a_variant_is_right_for_the_tools_it_offers():
    places, alone = Counter(), 0
    for index, changes in varied(ROWS, seed=1):
        row = gold.variant(ROWS[index], changes)
        names = [tool["name"] for tool in row["tools"]]
        call, called = call_from_json(row["call"]), ROWS[index]["call"]["name"]
        assert len(set(names)) == len(names) and names
        TASK.of(row).validate(call)
        assert TASK.of(row).equivalent(call, call)
        if call == NO_CALL:
            assert called not in names and "accepted" not in row and not row["names"]
        else:
            assert call.name == called and called in names
            places[names.index(called)] += 1
            alone += len(names) == 1
    # Neither its place nor how many there are says which tool is called.
    assert min(places[place] for place in range(3)) > 200 and alone > 200


@pytest.mark.parametrize(
    ("called", "left"),
    [
        ("Music_3_LookupMusic", {"Media_3_FindMovies", "get.user", "get.list"}),
        # A name of words that say nothing is like no other.
        ("get.list", {"Music_3_LookupMusic", "getMusicAlbum", "Media_3_FindMovies", "get.user"}),
    ],
)
def test_where_a_tool_is_taken_away_none_named_like_it_is_left(called, left):
    tool = ROWS[0]["tools"][0]
    names = ["Music_3_LookupMusic", "getMusicAlbum", "Media_3_FindMovies", "get.user", "get.list"]
    row = {
        "tools": [{**tool, "name": name} for name in names],
        "call": {"name": called, "arguments": {}},
    }
    found = [
        {offered["name"] for offered in changes["tools"]}
        for seed in range(50)
        for _, changes in varied([row], seed)
        if changes["call"] == NO_CALL.to_json()
    ]
    assert set().union(*found) == left


def test_every_gold_call_is_legal_right_and_can_be_written():
    for row in ROWS:
        posed, call = TASK.of(row), call_from_json(row["call"])
        posed.validate(call)
        assert posed.equivalent(call, call), row
        assert posed.parse_call(posed.render_call(call)) == call, row
    assert (len(LIVE), len(ROWS)) == (2163, 3002)


def test_of_several_right_values_the_one_in_the_query_is_learned():
    tools = [{"name": "t", "parameters": {"required": ["a"]}}]
    accepted = {"a": ["NYC", "New York", "York"], "b": ["", "x"], "c": [{"k": ["v"], "l": ["", 1]}]}
    raw = {"query": "go to New York", "called": "t", "accepted": accepted, "tools": tools}
    assert gold.gold_call(raw) == ToolCall("t", {"a": "New York", "c": {"k": "v"}})
    del raw["accepted"]
    assert gold.gold_call(raw) == NO_CALL


SCHEMA = {
    "required": ["n"],
    "properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "s": {"type": "string"},
        "l": {"type": "array", "items": {"type": "string"}}, "o": {"type": "object"},
        "on": {"type": "boolean"},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "accepted", "right"),
    [
        ({"n": 1}, {"n": [1, 2]}, True),
        ({"n": 1.0}, {"n": [1]}, False),
        ({"n": True}, {"n": [1]}, False),
        ({}, {"n": [1, ""]}, False),
        ({"n": 1}, {"n": [1], "s": ["a"]}, False),
        ({"n": 1}, {"n": [1], "s": ["a", ""]}, True),
        ({"n": 1, "z": 1}, {"n": [1], "z": [1]}, False),
        ({"n": 1, "s": "a"}, {"n": [1]}, False),
        ({"n": 1, "x": 2}, {"n": [1], "x": [2.0]}, True),
        ({"n": 1, "s": "MAY 1, 2024"}, {"n": [1], "s": ["May 1 2024"]}, True),
        ({"n": 1, "s": "May 2"}, {"n": [1], "s": ["May 1 2024"]}, False),
        ({"n": 1, "l": ["A b", "c."]}, {"n": [1], "l": [["ab", "c"]]}, True),
        ({"n": 1, "l": ["c", "ab"]}, {"n": [1], "l": [["ab", "c"]]}, False),
        ({"n": 1, "o": {"k": "V"}}, {"n": [1], "o": [{"k": ["v"], "l": ["", 1]}]}, True),
        ({"n": 1, "o": {"k": "V", "m": 1}}, {"n": [1], "o": [{"k": ["v"]}]}, False),
        ({"n": 1, "on": False}, {"n": [1], "on": [True]}, False),
        ({"n": 1, "on": "flag"}, {"n": [1], "on": ["flag"]}, True),
        ({"n": 1, "l": "flag"}, {"n": [1], "l": ["flag"]}, True),
        ({"n": 1, "l": "FLAG"}, {"n": [1], "l": ["flag"]}, False),
    ],
)
def test_arguments_are_right_as_the_leaderboard_says(arguments, accepted, right):
    assert accepts(arguments, accepted, SCHEMA) is right


def test_where_no_tool_fits_only_no_call_is_right():
    row = next(row for row in ROWS if row["source"] == "irrelevance")
    assert equivalent(NO_CALL, NO_CALL, row)
    assert not equivalent(ToolCall(row["tools"][0]["name"]), NO_CALL, row)
    called = next(row for row in ROWS if row["source"] == "simple")
    assert not equivalent(NO_CALL, call_from_json(called["call"]), called)


# --- the real thing -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return make_rows.download(tmp_path_factory.mktemp("wheel"))


@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_rows_are_those_of_the_wheel(wheel):
    left_out: Counter[str] = Counter()
    made = list(make_rows.rows(wheel, TASK, left_out))
    with gzip.open(gold.ROWS, "rt", encoding="utf-8") as file:
        assert made == [json.loads(line) for line in file]
    text = Path("docs/functions.md").read_text()
    assert all(f"{count} {reason}" in text for reason, count in left_out.items()), left_out


@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_leaderboards_own_checker_agrees_on_every_row_and_on_mutated_answers(wheel):
    draw = random.Random(1)
    rows = [row for row in ROWS if "accepted" in row]
    asked = [(row, call_from_json(row["call"])) for row in rows]
    asked += [mutated(draw, draw.choice(rows)) for _ in range(MUTATED)]
    theirs = verdicts(wheel, asked)
    assert theirs[: len(rows)] == [True] * len(rows)
    broke_down = [verdict for verdict in theirs if not isinstance(verdict, bool)]
    assert len(broke_down) <= MUTATED // 100, broke_down[:5]
    ours = [equivalent(call, call_from_json(row["call"]), row) for row, call in asked]
    differ = [
        (row["tools"], row["accepted"], call, mine, other)
        for (row, call), mine, other in zip(asked, ours, theirs, strict=True)
        if isinstance(other, bool) and mine is not other
    ]
    assert not differ, differ[:3]
    right = sum(verdict is True for verdict in theirs[len(rows) :])
    illegal = sum(mine and is_illegal(*pair) for pair, mine in zip(asked, ours, strict=True))
    print(
        f"{len(rows)} gold calls, {MUTATED} mutated ones of which {right} are right, "
        f"{illegal} of these by no legal call; the checker broke down on {len(broke_down)}"
    )
    assert MUTATED // 4 < right < 3 * MUTATED // 4


def is_illegal(row, call):
    try:
        TASK.of(row).validate(call)
    except CallError:
        return True
    return False


def verdicts(wheel, asked):
    with zipfile.ZipFile(wheel) as archive:
        tools = {}
        for file in make_rows.FILES:
            for entry in make_rows.lines(archive, f"BFCL_v4_{file}.json"):
                key = tuple(json.dumps(make_rows.tool(raw)) for raw in entry["function"])
                tools.setdefault(key, entry["function"])
    lines = [
        json.dumps(
            {
                "tools": tools[tuple(map(json.dumps, row["tools"]))],
                "accepted": row["accepted"],
                "called": row["call"]["name"],
                "call": call.to_json(),
            }
        )
        for row, call in asked
    ]
    program = [sys.executable, str(Path(__file__).with_name("leaderboard.py")), str(wheel)]
    done = subprocess.run(
        program, input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def mutated(draw, row):
    """A row and another call than its gold: a different right one, or one with a change or two."""
    call = call_from_json(copy.deepcopy(row["call"]))
    arguments = call.arguments
    for key, options in row["accepted"].items():
        if draw.random() < 0.5:
            arguments[key] = gold._value(draw.choice(options), row["query"])
        elif "" in options and draw.random() < 0.5:
            arguments.pop(key, None)
    for _ in range(draw.choice([0, 0, 1, 1, 2])):
        if not arguments or draw.random() < 0.05:
            arguments["unheard_of"] = 1
        elif draw.random() < 0.1:
            del arguments[draw.choice(sorted(arguments))]
        else:
            key = draw.choice(sorted(arguments))
            arguments[key] = changed(draw, arguments[key])
    name = draw.choice(row["tools"])["name"] if draw.random() < 0.03 else call.name
    return row, ToolCall(name, arguments)


def changed(draw, value):
    if isinstance(value, dict):
        value = dict(value)
        if value and draw.random() < 0.8:
            key = draw.choice(sorted(value))
            if draw.random() < 0.2:
                del value[key]
            else:
                value[key] = changed(draw, value[key])
        else:
            value["unheard_of"] = "x"
        return value
    if isinstance(value, list):
        if value and draw.random() < 0.7:
            at = draw.randrange(len(value))
            return [*value[:at], changed(draw, value[at]), *value[at + 1 :]]
        return draw.choice([value[::-1], [*value, *value[:1]], value[1:], []])
    if isinstance(value, bool):
        return draw.choice([not value, int(value), str(value)])
    if isinstance(value, int | float):
        return draw.choice([value + 1, float(value), int(value), str(value), -value])
    if isinstance(value, str):
        letters = [value.upper(), value.lower(), f"{value}.", value.replace(" ", "_"), f" {value}"]
        signs = [value.replace(",", ""), value.replace("-", "/"), f'"{value}"', f"'{value}'"]
        return draw.choice([*letters, *signs, f"{value}x", value[1:], "", 7, [value]])
    return draw.choice([value, "", 0])
