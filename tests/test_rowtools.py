"""Queries that bring their own tools: one way to read and show them, from a row to a shipped model."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import random
import shutil

import pytest
from lessons import learn
from test_cli import run
from transformers import AutoTokenizer

from supertiny import cli, rl, rowtools
from supertiny.calls import NO_CALL, ToolCall, call_from_json
from supertiny.conversation import question
from supertiny.errors import CallError, UserError
from supertiny.export import export_onnx
from supertiny.io import write_json, write_jsonl
from supertiny.metrics import score
from supertiny.params import core
from supertiny.params.prepare import Prepare
from supertiny.params.rl import Rl
from supertiny.prepare import draw_splits
from supertiny.queries import read_queries
from supertiny.rollouts import Sampling, generator, sample_groups
from supertiny.runtime import OnnxStudent
from supertiny.sft import encode_row
from supertiny.student import TorchStudent
from supertiny.task import load_task_folder

TASK_YAML = """\
name: anything
description: A task whose queries bring their tools.
licence: Apache-2.0
language: en
prompt: signatures
lowercase: false
"""


def tool(name, description="", required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": description, "parameters": parameters}


CITY = {"type": "string", "description": "Where to, as 'City, State' (e.g. 'Bonn, NRW')."}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 100}
LAMPS = [tool("light_on"), tool("dim", "Sets lamps. Slowly.", ["percent"], percent=NUMBER)]
TRAINS = [tool("train", "Buys a ticket.", ["to"], to=CITY), tool("dim_sum", "Food.", n=NUMBER)]
ROWS = [
    {"query": "on now", "tools": LAMPS, "call": ToolCall("light_on").to_json()},
    {"query": "dim 30", "tools": LAMPS, "call": ToolCall("dim", {"percent": 30}).to_json()},
    {"query": "dim 30", "tools": TRAINS, "call": ToolCall("dim_sum", {"n": 30}).to_json()},
    {"query": "to Bonn", "tools": TRAINS, "call": ToolCall("train", {"to": "Bonn"}).to_json()},
    {"query": "to Bonn", "tools": LAMPS, "call": NO_CALL.to_json()},
]
ROWS = [{"id": str(n), "source": "x", "slices": [], **row} for n, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def anything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "anything"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK_YAML)
    (folder / "tools.json").write_text("[]")
    return load_task_folder(folder)


@pytest.fixture(scope="module")
def model(anything, tiny_model, tmp_path_factory):
    """The random model after it has learned `ROWS` by heart, as `encode_row` gives them."""
    out = tmp_path_factory.mktemp("models") / "anything"
    shutil.copytree(tiny_model, out)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [encode_row(row, anything, tokenizer) for row in ROWS]
    learn(out, [(row["input_ids"], row["labels"]) for row in rows], steps=600, enough=2e-3)
    return out


@pytest.fixture(scope="module")
def folder(model, anything, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "anything"
    export_onnx(model, anything, out)
    return out


@pytest.fixture(scope="module")
def student(folder):
    return OnnxStudent(folder)


@pytest.fixture(scope="module")
def clueless(tiny_model, anything, tmp_path_factory):
    """Random weights: nothing it writes is legal but by the grammar."""
    out = tmp_path_factory.mktemp("onnx") / "clueless"
    export_onnx(tiny_model, anything, out)
    return OnnxStudent(out)


# --- reading and showing them -------------------------------------------------------------------


def test_a_tool_is_one_short_line_with_the_quoted_example(anything):
    text = anything.of({"query": "on", "tools": TRAINS}).render_prompt("on")
    assert text == (
        'train(to: string "City, State")  Buys a ticket\ndim_sum(n?: integer 0..100)  Food\n on\n'
    )


def test_nested_types_and_values_that_would_read_as_json_are_told(anything):
    inner = {"type": "object", "required": ["k"], "properties": {"k": {"enum": [1, "1", True]},
             "l": {"type": "array", "items": {"type": "number"}}}}  # fmt: skip
    posed = anything.of(
        {"query": "on", "tools": [tool("t", o=inner, a={"type": ["null", "string"]})]}
    )
    assert posed.signatures() == 't(a?: null|string, o?: {k: 1|"1"|true, l?: [number]})'


def test_the_order_of_keys_means_nothing_and_required_ones_come_first(anything):
    one = tool("t", "d", ["b", "c"], a=CITY, c=NUMBER, b=NUMBER)
    other = tool("t", "d", ["c", "b"], b=NUMBER, c=dict(reversed(NUMBER.items())), a=CITY)
    texts = {anything.of({"query": "on", "tools": [t]}).render_prompt("on") for t in (one, other)}
    assert len(texts) == 1 and texts.pop().startswith("t(b: integer 0..100, c: ")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Buys  a\nticket. And more.", "Buys a ticket"),
        ("Gets v1.2 of e.g. milk. More", "Gets v1.2 of e.g. milk"),
        ("word " * 40, ("word " * 20).strip()),
        ("", ""),
    ],
)
def test_of_a_description_the_first_sentence_is_shown(text, wanted):
    assert rowtools.brief(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The user's city, the driver's too", ""),
        ("In the format of 'City, State (abbr)'.", "City, State (abbr)"),
        ("As \"YYYY-MM-DD\" or 'now'", "YYYY-MM-DD"),
        (f"As '{'x' * 41}' or 'short'", "short"),
    ],
)
def test_the_example_is_what_is_quoted_and_short(text, wanted):
    assert rowtools.example(text) == wanted


BROKEN = [
    ("light_on", "found str, expected a list"),
    ({"tools": []}, "found dict, expected a list"),
    ([7], "number 1: expected name, description and parameters"),
    ([{**LAMPS[0], "strict": True}], "number 1: expected name, description and parameters"),
    ([{**LAMPS[0], "name": None}], "name and description must be strings"),
    ([{**LAMPS[0], "parameters": True}], "expected a schema, found bool"),
    ([{**LAMPS[0], "parameters": {"type": "array"}}], "must be a schema of type object"),
    ([tool("no_call")], "'no_call' is taken"),
    ([tool("t"), tool("t")], "number 2: name 't' is taken"),
    ([tool("two\nlines")], "alias must be one line"),
    ([tool("t", **{"two words": NUMBER})], "argument name 'two words' must match"),
    ([tool("t", "", ["b"], a=NUMBER)], "required names what is no property"),
    ([tool("t", a={"type": "objekt"})], "not a valid JSON Schema"),
    ([tool("t", a={"$ref": "https://example.org/x.json"})], r"\['\$ref'\]: unknown here"),
    ([tool("t", a={"type": "string", "pattern": "(a+)+$"})], r"\['pattern'\]: unknown here"),
    ([tool("t", a={"items": {"not": {}}})], r"a, items: \['not'\]: unknown here"),
    ([tool("t", a={"type": "object", "additionalProperties": {"$ref": "https://example.org"}})],
     r"a, other properties: \['\$ref'\]: unknown here"),
    ([tool("t", a={"properties": {"one\nline": {}}})], "must be printable"),
    ([tool("t", a={"type": "number", "maximum": float("nan")})], "not valid JSON"),
    ([tool("t", "x" * 70_000)], "at most 65536 allowed"),
    ([tool("t", a={"anyOf": [{"items": {"items": {"items": {"items": {"items": {"items": {}}}}}}}]})],
     "more than 6 deep"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_tools_that_are_none_are_refused_with_the_reason(anything, student, tools, told):
    asked = {"query": "on now", "tools": tools}
    with pytest.raises(CallError, match=told):
        anything.of(asked)
    refused, answered = student.predict_many([asked, question(ROWS[0])])
    assert isinstance(refused, CallError) and answered == call_from_json(ROWS[0]["call"])


def test_no_tool_can_slip_in_a_control_token(student):
    said = "<|im_end|>"
    for tools in ([tool("t", said)], [tool(f"t{said}")], [tool("t", a={"enum": [said]})]):
        ids = student.encode({"query": "on", "tools": tools})
        assert not student.end_ids & set(ids) and ids.count(student.engine.start_id) == 1


def test_a_task_with_its_tools_in_the_weights_takes_no_others(lamps):
    with pytest.raises(CallError, match="has its tools in the weights"):
        lamps.of({"query": "on", "tools": LAMPS})


def test_rows_without_tools_are_posed_as_ever(lamps):
    row = {"query": "Dim it", "call": {"name": "Dim", "arguments": {"brightness": 3}}}
    assert lamps.of("on") is lamps and lamps.of(row).tools is lamps.tools
    assert lamps.of(row).render_prompt(row["query"]) == lamps.render_prompt(row["query"])
    assert question(row) == "Dim it"


# --- rows ---------------------------------------------------------------------------------------


def drawn(row, split):
    words = {"test": "please", "dev": "kindly and soon", "train": "or else we go there"}[split]
    kept = {key: value for key, value in row.items() if key != "id"}
    return {**kept, "query": f"{row['query']} {words}", "template": "", "names": []}


def test_one_query_with_other_tools_is_another_row_and_long_ones_are_counted(anything, tmp_path):
    long = {**ROWS[0], "query": "so " * 300}

    class Rows:
        def stream(self, split):
            yield from (drawn(row, split) for row in [*ROWS, *ROWS, long])

    sizes = {f"{split}_rows": 50 for split in ("train", "dev", "test")}
    params = dataclasses.replace(core.load(Prepare), max_prompt_bytes=400, **sizes)
    splits, refused = draw_splits(Rows(), anything, params)
    for split, rows in splits.items():
        assert len({row["id"] for row in rows}) == len(rows) == len(ROWS)
        assert refused[f"refused_{split}_duplicate"] == len(ROWS)
        assert refused[f"refused_{split}_too_long"] == 1
        write_jsonl(tmp_path / split, rows)
        assert read_queries(tmp_path / split, anything) == rows


def test_a_row_with_broken_tools_is_named(anything, tmp_path):
    write_jsonl(tmp_path / "rows", [ROWS[0], {**ROWS[1], "tools": [7]}])
    with pytest.raises(UserError, match="line 2: tools, number 1: expected name"):
        read_queries(tmp_path / "rows", anything)
    write_jsonl(tmp_path / "rows", [{**ROWS[1], "tools": TRAINS}])
    with pytest.raises(UserError, match="line 1: gold call: unknown tool 'dim'"):
        read_queries(tmp_path / "rows", anything)


# --- students -----------------------------------------------------------------------------------


def test_the_same_query_with_other_tools_gets_another_call(model, anything, student):
    asked = [question(row) for row in ROWS]
    wanted = [call_from_json(row["call"]) for row in ROWS]
    texts = TorchStudent(model, anything).answers(asked, 24, 2)
    found = zip(texts, asked, strict=True)
    assert [anything.of(said).parse_call(text) for text, said in found] == wanted
    assert [student.predict(said) for said in asked] == wanted
    assert student.predict_many(asked) == wanted
    values, _ = score(anything, ROWS, texts)
    assert values["exact_match"] == 1 and values["unparsable_rate"] == 0


def test_answers_are_legal_by_the_tools_of_their_own_query(clueless, anything):
    draw = random.Random(3)
    asked = []
    for number in range(24):  # of few lengths, so that batches hold queries with different tools
        names = draw.sample("abcdefgh", 3)
        tools = [tool(f"tool_{name}", "", ["x"], x={"enum": [number, name]}) for name in names]
        asked.append({"query": "abc", "tools": tools})
    assert len({len(clueless.encode(said)) for said in asked}) < 12
    found = clueless.predict_many(asked)
    for said, call in zip(asked, found, strict=True):
        assert not isinstance(call, CallError), call
        anything.of(said).validate(call)
    assert [clueless.predict(said) for said in asked] == found
    assert sum(call.name.startswith("tool_") for call in found) > 4
    free = OnnxStudent(clueless.folder, constrained=False)
    assert all(isinstance(call, CallError) for call in free.predict_many(asked[:4]))


def legal(task, text):
    try:
        return task.parse_call(text)
    except CallError:
        return None


def test_tools_of_a_query_take_the_place_of_the_tasks(folder, anything, tmp_path):
    """What only the task's own tools allow is no call of the query's."""
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    closed = {"additionalProperties": False}
    tools = [
        {**t, "alias": t["name"], "parameters": t["parameters"] | closed} for t in LAMPS + TRAINS
    ]
    write_json(own / "task" / "tools.json", tools)
    brought = [tool("only", "", ["x"], x={"enum": ["red", "blue"]})]
    asked = [{"query": row["query"], "tools": brought} for row in ROWS]
    student, free = OnnxStudent(own), OnnxStudent(own, constrained=False)
    written = free.answers(asked)
    # Else nothing that is legal for the task and not for the query had to be written again.
    assert any(legal(student.task, text) not in (None, NO_CALL) for text in written)
    for said, call in zip(asked, student.predict_many(asked), strict=True):
        anything.of(said).validate(call)


def test_a_stream_is_under_the_grammar_of_its_query(clueless, anything):
    asked = {"query": "ab", "tools": [tool("only", "", ["x"], x={"enum": ["red", "blue"]})]}
    stream = clueless.stream(asked)
    text = "".join(stream)
    assert anything.of(asked).parse_call(text) == stream.prediction == clueless.predict(asked)


def test_a_conversation_may_bring_its_tools(student, anything):
    done = {"role": "assistant", "call": {"name": "dim", "arguments": {"percent": 3}}}
    said = [{"role": "user", "content": "dim 3"}, done, {"role": "user", "content": "on now"}]
    asked = {"messages": said, "tools": LAMPS}
    assert anything.of(asked).as_query(asked) == "dim 3 => dim percent 3 => on now"
    anything.of(asked).validate(student.predict(asked))
    with pytest.raises(CallError, match="unknown tool 'dim'"):
        student.predict({**asked, "tools": TRAINS})


def test_a_query_without_tools_where_the_task_has_none_is_refused(student):
    for asked in ("on now", {"query": "on now"}):
        with pytest.raises(CallError, match="no tools: this task has none of its own"):
            student.predict(asked)


def test_more_tools_than_the_student_can_read_are_refused(student):
    many = [tool(f"tool_{n}", "Does this and that with all of them", a=CITY) for n in range(200)]
    with pytest.raises(CallError, match="query too long: found .* at most 1280"):
        student.predict({"query": "on", "tools": many})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"enum": []},
    ],
    ids=str,
)
def test_schemas_that_nothing_satisfies_spoil_no_other_query(clueless, schema):
    asked = {"query": "ab", "tools": [tool("t", "", ["a"], a=schema)]}
    good = {"query": "ab", "tools": [tool("t", "", ["a"], a={"enum": ["x"]})]}
    bad, call = clueless.predict_many([asked, good])
    assert isinstance(bad, CallError) or bad == NO_CALL
    assert not isinstance(call, CallError) and call == clueless.predict(good)


def test_whatever_the_tools_are_there_is_a_legal_call_or_a_reason(clueless, anything):
    draw = random.Random(5)
    odd = [None, True, -1, 1e300, "", "x", "<|im_end|>", "\ud800", [], {}, [1], {"type": "string"},
           "object", "array", "integer", "\n", "½", ["a", 1, None]]  # fmt: skip
    found = {"refused": 0, "answered": 0}
    for _ in range(400):
        tools = copy.deepcopy(draw.choice([LAMPS, TRAINS]))
        for _ in range(draw.choice([1, 1, 2])):
            spoil(draw, tools, odd)
        asked = {"query": "dim 30", "tools": tools}
        result = clueless.predict_many([asked])[0]
        if isinstance(result, CallError):
            found["refused"] += 1
            assert 0 < len(str(result)) < 1000
        else:
            found["answered"] += 1
            anything.of(asked).validate(result)
            json.dumps(result.to_json(), allow_nan=False)
    assert min(found.values()) > 20, found


def spoil(draw, value, odd):
    """Replace one thing somewhere inside."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.85:
        spoil(draw, value[key], odd)
    else:
        value[key] = draw.choice(odd)


def test_an_untrained_model_is_shown_the_tools_of_each_query(tiny_model, anything):
    student = TorchStudent(tiny_model, anything, examples=ROWS[:2])
    assert student.prompt(question(ROWS[3])).startswith("train(to: string")
    assert student.prefix_text.count("light_on()") == 2
    assert student.prefix_text.endswith(" dim 30\n dim\n percent 30\n\n")


# --- rewards ------------------------------------------------------------------------------------


def test_reinforcement_learning_rewards_by_the_tools_of_each_row(model, anything):
    student = TorchStudent(model, anything)
    groups = sample_groups(student, ROWS, Sampling(4, 0.05, 24), 3, generator(student.device, 1))
    assert [group.rewards for group in groups] == [[1.0] * 4] * len(ROWS)
    swapped = [{**row, "tools": TRAINS} for row in ROWS[:1]]
    answers = sample_groups(
        student, swapped, Sampling(4, 0.05, 24), 3, generator(student.device, 1)
    )
    assert max(answers[0].rewards) < 1
    params = dataclasses.replace(core.load(Rl), max_new_tokens=24, batch_size=2)
    assert rl.exact_match(student, ROWS, params) == 1.0
    dataset = rl._dataset(ROWS, anything, student.tokenizer, params)
    assert all("percent: integer" in p or "train(to" in p for p in dataset["prompt"])


# --- the command line ---------------------------------------------------------------------------


def test_the_command_takes_tools_from_a_file_and_from_lines(capsys, folder, tmp_path, monkeypatch):
    write_json(tmp_path / "lamps.json", LAMPS)
    options = ("predict", "--model", str(folder), "--tools", str(tmp_path / "lamps.json"))
    code, out, _ = run(capsys, *options, "dim 30")
    assert (code, out) == (0, '{"arguments":{"percent":30},"name":"dim"}\n')
    code, _, err = run(capsys, *options, "--max-new-tokens", "2", "dim 30")
    assert code == 1 and "did not end within 2 tokens" in err
    lines = [{"query": "dim 30"}, {"query": "dim 30", "tools": TRAINS}, {"query": "x", "tools": 7}]
    text = "\n".join(map(json.dumps, lines)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, out, _ = run(capsys, *options, "--input", "-")
    first, second, third = map(json.loads, out.splitlines())
    assert code == 1 and third["error"] == "tools: found int, expected a list"
    assert (first["call"]["name"], second["call"]["name"]) == ("dim", "dim_sum")
    assert "tools" not in first and second["tools"] == TRAINS
    with pytest.raises(SystemExit):
        cli.main(["predict", "--model", str(folder), "--tools", "none.json", "dim 30"])
