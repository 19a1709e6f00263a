"""Arguments that quote the query are spelt as it does, and nothing else is touched."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import make_project, run_stage

from supertiny.calls import ToolCall, call_from_json
from supertiny.io import read_jsonl
from supertiny.metrics import predict
from supertiny.quoting import as_said
from supertiny.task import load_task
from tasks.home import grammar, languages

HOME = load_task("home")
WORDS = st.text("abcdefgh'-é1", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("value", "query", "expected"),
    [
        ("sky box", "mute media player on sky q box.", "sky q box"),
        ("solararium", "how hot is it throughout the solarium", "solarium"),
        ("ad amplifier", "the nad amplifier volume down", "nad amplifier"),
        ("blue swimmer crabs", "check blue swimmer crab on list", "blue swimmer crab"),
        ("lah's desk lamp", "dim noah's desk lamp!", "noah's desk lamp"),
        ("hi-f i", "my hi-fi down", "hi-fi"),
        # Said so, or part of what is said; nothing is like it.
        ("snug fan", "turn the snug fan on", "snug fan"),
        ("the snug", "turn the snug fan on", "the snug"),
        ("kitchen", "turn it off please", None),
        ("", "turn it off", ""),
        ("lamp", "", None),
    ],
)
def test_a_slip_in_copying_is_mended(value, query, expected):
    assert as_said(value, query) == expected


def test_a_word_of_known_spelling_stays_though_the_query_misspells_it():
    query = "turn off the kichen lamp by the libarry"
    assert as_said("kitchen lamp", query, frozenset({"kitchen"})) == "kitchen lamp"
    assert as_said("kitchen lamp", query, frozenset({"library"})) == "kichen lamp"


@given(st.lists(WORDS, min_size=1, max_size=12), st.data())
def test_words_of_the_query_stay_as_they_are(words, data):
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    query, value = " ".join(words), " ".join(words[first : last + 1])
    assert as_said(value, query) == value


@given(st.text(max_size=20), st.text(max_size=60))
def test_the_result_is_the_value_or_a_place_in_the_query(value, query):
    found = as_said(value, query)
    assert found is None or found == value or found in query


def test_only_arguments_that_quote_are_respelt():
    said = "set the solarium fan to atuo"
    call = ToolCall("HassClimateSetFanMode", {"area": "solararium", "fan_mode": "auto"})
    answer = HOME.render_call(call)
    assert HOME.parse_call(answer, said).arguments == {"area": "solarium", "fan_mode": "auto"}
    assert HOME.parse_call(answer) == call  # no query, nothing to quote


def test_the_casing_of_the_query_comes_back_after_the_spelling():
    answer = HOME.render_call(ToolCall("HassTurnOn", {"name": "solararium lamp"}))
    assert HOME.parse_call(answer, "Solarium Lamp on").arguments == {"name": "Solarium Lamp"}


def test_a_ready_made_call_is_respelt_like_an_answer():
    # The teacher and the rules hand over calls; what stands beside them is read alike.
    gold, slip = (ToolCall("HassTurnOn", {"name": name}) for name in ("sky q box", "sky box"))
    row = {"id": "q", "query": "sky q box on", "call": gold.to_json(), "slices": ["all"]}
    for answer in (slip, HOME.render_call(slip)):
        assert predict(HOME, row, answer)["exact"]


def test_the_lexicon_has_the_words_that_train_misspells():
    names = [path.read_text() for path in (grammar.FOLDER / "names/everyday").glob("*.txt")]
    for code in languages.CODES[1:]:
        names += [name for listed in languages.load(code).everyday().values() for name in listed]
    assert frozenset(re.findall(r"\w(?:\S*\w)?", " ".join(names).lower())) == HOME.lexicon


def test_a_value_in_front_of_a_compound_stays():
    call = ToolCall("HassCancelTimer", {"name": "fisch"})
    assert HOME.quote(call, "brich den fischtimer ab") == call
    assert (
        HOME.quote(call, "brich den timer für frische ab") != call
    )  # alike, but not what was said


def test_right_calls_stay_right(tmp_path):
    project = make_project(tmp_path / "project")
    run_stage(project, "prepare")
    rows = read_jsonl(project / "data/queries/train.jsonl")
    changed = [
        row["query"]
        for row in rows
        if not HOME.equivalent(
            HOME.quote(call_from_json(row["call"]), row["query"]), call_from_json(row["call"])
        )
    ]
    assert not changed and len(rows) >= 300
