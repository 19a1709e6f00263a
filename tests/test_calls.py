"""The text form is lossless for every legal call, refuses what is illegal, and folds as told."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supertiny.calls import (
    NO_CALL,
    Tool,
    ToolCall,
    equivalent,
    fold_text,
    may_become_call,
    parse_call,
    render_call,
    rouge_l,
    soft_score,
)
from supertiny.errors import CallError
from supertiny.task import load_task

FREE = {"type": "string", "x-fold": ["case", "articles", "numbers"]}


def tool(**properties):
    return {
        "do_it": Tool(
            "do_it",
            "do it",
            "",
            {"type": "object", "properties": properties, "additionalProperties": False},
        )
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abcdef"), json_values))
@settings(max_examples=400, deadline=None)
def test_parse_inverts_render_for_any_json_value(arguments):
    tools = tool(**{key: {} for key in "abcdef"})
    call = ToolCall("do_it", arguments)
    back = parse_call(render_call(call, tools), tools)
    assert back == call
    assert [type(back.arguments[k]) for k in arguments] == [type(v) for v in arguments.values()]


def legal_value(schema):
    if "anyOf" in schema:
        return st.one_of(*map(legal_value, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "string":
        return st.text(min_size=schema.get("minLength", 0))
    low, high = schema["minimum"], schema["maximum"]
    if schema["type"] == "integer":
        return st.integers(low, high)
    step = schema["multipleOf"]
    return st.integers(math.ceil(low / step), math.floor(high / step)).map(lambda n: n * step)


HOME = load_task("home")


@st.composite
def home_calls(draw):
    tools = HOME.tools
    chosen = tools[draw(st.sampled_from(sorted(tools)))]
    required = set(chosen.parameters["required"])
    keys = [k for k in chosen.properties if k in required or draw(st.booleans())]
    return ToolCall(chosen.name, {k: draw(legal_value(chosen.properties[k])) for k in keys})


@given(home_calls())
@settings(max_examples=200, deadline=None)
def test_parse_inverts_render_for_every_legal_call_of_home(call):
    HOME.validate(call)
    assert HOME.parse_call(HOME.render_call(call)) == call


def test_no_call_survives():
    tools = tool()
    assert parse_call(render_call(NO_CALL, tools), tools) == NO_CALL


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown tool"),
        (" do that", "unknown tool"),
        (" no_call\n a 1", "unknown tool"),
        (" do it\n a", "without a value"),
        (" do it\n a 1\n a 2", "given twice"),
        (" do it\n z 1", "z"),
        (" do it\n a one", "one"),
        (' do it\n s "broken', "broken quoted string"),
        (" do it\n a NaN", "NaN"),
        (" do it\n a __import__('os').getcwd()", "__import__"),
        (" do it\n a " + "[" * 100_000, "not of type"),
        (" do it\n a " + "9" * 10_000, "not of type"),
    ],
)
def test_illegal_text_is_refused_with_its_reason(text, reason):
    tools = tool(a={"type": "integer", "maximum": 100}, s={"type": "string"})
    with pytest.raises(CallError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        parse_call(text, tools)


def test_an_argument_is_called_by_its_alias_in_text_and_by_its_name_in_the_call():
    tools = tool(volume_level={"type": "integer", "x-alias": "level"}, level={"x-alias": "storey"})
    call = ToolCall("do_it", {"volume_level": 3, "level": 4})
    text = render_call(call, tools)
    assert text == " do it\n level 3\n storey 4"
    assert parse_call(text, tools) == call
    with pytest.raises(CallError, match="given twice"):
        parse_call(" do it\n level 3\n volume_level 4", tools)


TWO = tool(area={"type": "string"}, level={"type": "integer"})
PIECES = [
    " do it",
    " no_call",
    " fly",
    " area hall",
    " level 3",
    ' area "x',
    "\n",
    "\n",
    "\n",
    " ",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=9), st.lists(st.sampled_from(PIECES), max_size=6))
@settings(max_examples=1500, deadline=None)
def test_what_cannot_become_a_call_never_does(before, after):
    text = "".join(before)
    if not may_become_call(text, TWO):
        with pytest.raises(CallError):
            parse_call(text + "".join(after), TWO)


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("", True),
        (" fl", True),
        (" fly\n", False),
        ("\n", False),
        (" no_call\n", True),
        (" no_call\n no_call\n", False),
        (" do it\n", True),
        (" do it\n\n", True),
        (" do it\n area hall\n area hall", True),
        (" do it\n area hall\n area hall\n", False),
        (" do it\n area\n", False),
        (" do it\n area hall\n level 3\n", True),
    ],
)
def test_an_answer_is_given_up_at_the_line_that_makes_it_illegal(text, may):
    assert may_become_call(text, TWO) is may


@pytest.mark.parametrize("value", ["30", "true", "null", " padded ", "", '"quoted"', "a\nb", "[1]"])
def test_strings_that_look_like_something_else_stay_strings(value):
    tools = tool(s={"type": "string"})
    call = ToolCall("do_it", {"s": value})
    assert parse_call(render_call(call, tools), tools) == call


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"n": 30}, {"n": 30.0}, True),
        ({"n": 1}, {"n": True}, False),
        ({"n": None}, {}, False),
        ({"name": "The  Desk Lamp"}, {"name": "desk lamp"}, True),
        ({"name": "lamp two"}, {"name": "lamp 2"}, True),
        ({"name": "lamp twenty-two"}, {"name": "lamp 22"}, True),
        ({"name": "lamp"}, {"name": "lamps"}, False),
        ({"name": "STRASSE"}, {"name": "straße"}, True),
        ({"exact": "The Lamp"}, {"exact": "the lamp"}, False),
        ({"exact": "a", "n": 1}, {"n": 1, "exact": "a"}, True),
        ({"name": "the"}, {"name": "a"}, False),
    ],
)
def test_equivalence_folds_what_the_schema_says_and_nothing_else(left, right, same):
    tools = tool(n={}, name=FREE, exact={"type": "string"})
    assert equivalent(ToolCall("do_it", left), ToolCall("do_it", right), tools) is same


@given(st.text(), st.sets(st.sampled_from(["case", "articles", "numbers"])))
def test_folding_twice_changes_nothing_more(text, folds):
    # Collapsing is part of folding case; the other folds work on collapsed text.
    folds = folds | {"case"}
    once = fold_text(text, folds)
    assert fold_text(once, folds) == once


def test_soft_score_is_intersection_over_union_with_rouge_for_free_text():
    tools = tool(n={"type": "integer"}, name=FREE, mode={"type": "string", "enum": ["on", "off"]})

    def score(left, right):
        return soft_score(ToolCall("do_it", left), ToolCall("do_it", right), tools)

    assert score({}, {}) == 1
    assert score({"n": 1}, {"n": 1, "mode": "on"}) == 0.5
    assert score({"name": "big desk lamp"}, {"name": "desk lamp"}) == pytest.approx(0.8)
    assert score({"mode": "on"}, {"mode": "off"}) == 0
    assert soft_score(NO_CALL, ToolCall("do_it", {}), tools) == 0


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_rouge_l_is_symmetric_bounded_and_one_only_for_equal(left, right):
    value = rouge_l(left, right)
    assert value == pytest.approx(rouge_l(right, left))
    assert 0 <= value <= 1
    assert (value == 1) == (left == right)
