"""Steps answer through their function, are repaired once, and a trace says what became of each rewrite."""

import json
import shutil

import pytest
import yaml
from llmserver import completion, said
from teaching import ROWS, SAY, good, is_repair, params, through, user

from supertiny.calls import call_from_json
from supertiny.errors import CallError, UserError
from supertiny.task import load_task, load_task_folder
from supertiny.teacher.asking import Asker
from supertiny.teacher.backends import make_backend
from supertiny.teacher.functions import balanced_object, read_arguments
from supertiny.teacher.limits import Limits
from supertiny.teacher.pipeline import Pipeline, Retriever, choose_rows
from supertiny.teacher.recipe import load_recipe
from supertiny.teacher.rules import find_problem
from supertiny.teacher.run import teach
from supertiny.teacher.store import RowStore

HOME = load_task("home")
RECIPE = load_recipe(HOME)


class Scripted:
    """A backend that answers from a function of the question; counts what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def check(self, missing):
        pass

    async def complete(self, ask):
        self.asked.append(ask)
        return self.answer(ask)

    async def close(self):
        pass


def pipeline(tmp_path, answer, train=ROWS, **changes):
    settings = params(styles_per_row=2, concurrency=1, **changes)
    backend = Scripted(answer)
    asker = Asker(backend, RowStore(tmp_path / "rows.jsonl"), Limits(settings))
    return Pipeline(HOME, RECIPE, settings, asker, train), backend


def traces(tmp_path, answer, **changes):
    made, backend = pipeline(tmp_path, answer, **changes)
    found = made.traces(ROWS, "train", [])
    made.asker.close()
    return found, backend


def test_a_trace_holds_everything_a_rewrite_went_through(tmp_path):
    found, backend = traces(tmp_path, good)
    assert len(found) == 2 and len(backend.asked) == 6
    trace = found[0]
    assert trace["status"] == "candidate"
    assert trace["text"] == f"set the den blinds to 30 {trace['style']} would you"
    assert trace["calls"] == [{"call": ROWS[0]["call"]}]
    assert trace["grade"] == {"reason": "the same", "faithful": 5, "natural": 4}
    assert {t["style"] for t in found} == {"indirect", "polite"}
    assert json.dumps(found) == json.dumps(traces(tmp_path, good)[0])


def test_the_blind_call_sees_neither_the_command_nor_its_gold(tmp_path):
    _, backend = traces(tmp_path, good)
    for ask in backend.asked:
        if ask.request["function"]["name"] == "call":
            assert "HassSetPosition" not in user(ask) and '"position"' not in user(ask)


def test_rewrites_alone_ask_neither_for_calls_nor_for_grades(tmp_path):
    made, backend = pipeline(tmp_path, good)
    found = made.rewrites(ROWS, "test")
    made.asker.close()
    assert {ask.request["function"]["name"] for ask in backend.asked} == {"say"}
    assert [t["status"] for t in found] == ["candidate"] * 2


def test_a_call_is_shown_and_read_in_the_words_of_the_signatures(tmp_path):
    shown = {"name": "HassSetVolumeRelative", "arguments": {"volume_step": 5}}
    train = [{"id": "2", "query": "den blinds up by 5", "call": shown, "slices": []}]

    def answer(ask):
        if ask.request["function"]["name"] == "call":
            return through(ask, {"tool": "louder", "arguments": {"step": 30}})
        return good(ask)

    made, backend = pipeline(tmp_path, answer, train=train)
    found = made.traces(ROWS, "train", [])
    made.asker.close()
    asked = [ask for ask in backend.asked if ask.request["function"]["name"] == "call"]
    assert '{"tool":"louder","arguments":{"step":5}}' in user(asked[0])
    assert "step: down|up|integer" in asked[0].messages[0]["content"]
    call = {"name": "HassSetVolumeRelative", "arguments": {"volume_step": 30}}
    assert found[0]["calls"] == [{"call": call}]


def test_no_call_needs_no_arguments(tmp_path):
    def answer(ask):
        step = ask.request["function"]["name"]
        return through(ask, {"tool": "no_call"}) if step == "call" else good(ask)

    found, backend = traces(tmp_path, answer)
    assert found[0]["calls"] == [{"call": {"name": "no_call", "arguments": {}}}]
    assert not any(map(is_repair, backend.asked))


def test_an_invalid_answer_is_repaired_once_with_the_error_quoted(tmp_path):
    def answer(ask):
        if ask.request["function"]["name"] == "call" and not is_repair(ask):
            return through(ask, {"tool": "position", "arguments": {"position": 300}})
        return good(ask)

    found, backend = traces(tmp_path, answer)
    repairs = [ask for ask in backend.asked if is_repair(ask)]
    assert len(repairs) == 2
    assert "300 is greater than the maximum of 100" in repairs[0].messages[3]["content"]
    assert '"position": 300' in repairs[0].messages[2]["content"]
    assert all(trace["calls"][0]["call"] == ROWS[0]["call"] for trace in found)


def test_an_answer_that_stays_invalid_is_rejected_with_its_reason(tmp_path):
    def answer(ask):
        if ask.request["function"]["name"] == "say":
            return said("I cannot do that.")
        return good(ask)

    found, backend = traces(tmp_path, answer)
    assert [t["status"] for t in found] == ["rejected"] * 2
    assert found[0]["reason"] == "invalid: no JSON object in the answer"
    assert len(backend.asked) == 4  # two questions, two repairs, and no step after that


def test_a_truncated_answer_is_a_failure_and_is_not_repaired(tmp_path):
    found, backend = traces(tmp_path, lambda ask: through(ask, {"text": "x"}, finish="length"))
    assert [(t["status"], t["reason"]) for t in found] == [("failed", "truncated")] * 2
    assert len(backend.asked) == 2


def test_an_unknown_tool_of_the_teacher_is_not_a_call(tmp_path):
    def answer(ask):
        if ask.request["function"]["name"] == "call":
            return through(ask, {"tool": "open door", "arguments": {}})
        return good(ask)

    found, _ = traces(tmp_path, answer)
    assert found[0]["calls"][0]["call"] is None
    assert "unknown tool 'open door'" in found[0]["calls"][0]["reason"]


def test_only_agreed_calls_are_judged_if_asked_for(tmp_path):
    def answer(ask):
        if ask.request["function"]["name"] == "call" and "Request: " in user(ask):
            return through(ask, {"tool": "no_call", "arguments": {}})
        return good(ask)

    found, backend = traces(tmp_path, answer, judge="agreed")
    assert all(trace["grade"] is None for trace in found)
    assert "grade" not in {ask.request["function"]["name"] for ask in backend.asked}


def test_calls_and_grades_can_be_left_out(tmp_path):
    found, backend = traces(tmp_path, good, call_samples=0, judge="none")
    assert {ask.request["function"]["name"] for ask in backend.asked} == {"say"}
    assert all(trace["calls"] == [] and trace["grade"] is None for trace in found)


def test_verifiers_can_be_measured_on_what_a_person_read_alone(tmp_path):
    first, other = traces(tmp_path / "all", good)[0]
    stale = {**other, "text": "as it was worded before"}
    made, backend = pipeline(tmp_path / "read", good, verify="read")
    found = made.traces(ROWS, "train", [first, stale])
    made.asker.close()
    assert found == [first, {**other, "calls": [], "grade": None}]
    asked = [ask.request["function"]["name"] for ask in backend.asked]
    assert sorted(asked) == ["call", "grade", "say", "say"]


def test_dev_has_styles_of_its_own_number(tmp_path):
    settings = params(backend="made_up", styles_per_row=2, dev_styles_per_row=5)
    asker = Asker(make_backend(settings), RowStore(tmp_path / "rows"), Limits(settings))
    made = Pipeline(HOME, RECIPE, settings, asker, ROWS)
    found = {split: made.rewrites(ROWS, split) for split in ("train", "dev", "test")}
    asker.close()
    assert {split: len(rewrites) for split, rewrites in found.items()} == {
        "train": 2, "dev": 5, "test": 2
    }  # fmt: skip


def test_samples_of_a_step_are_different_questions(tmp_path):
    found, backend = traces(tmp_path, good, samples=3, call_samples=2)
    assert len(found) == 6 and all(len(trace["calls"]) == 2 for trace in found)
    keys = [ask.key for ask in backend.asked]
    assert len(set(keys)) == len(keys)


def test_a_style_that_is_left_out_is_not_asked_and_keeps_its_turn(tmp_path):
    rows = [{**ROWS[0], "id": str(n)} for n in range(7)]
    asked = {}
    for styles in ((), ("polite", "typo")):
        settings = params(backend="made_up", styles_per_row=3, styles=styles)
        asker = Asker(make_backend(settings), RowStore(tmp_path / str(styles)), Limits(settings))
        found = Pipeline(HOME, RECIPE, settings, asker, ROWS).rewrites(rows, "train")
        asker.close()
        asked[styles] = {(t["source_id"], t["style"]) for t in found}
    assert len(asked[()]) == 21
    assert asked["polite", "typo"] == {pair for pair in asked[()] if pair[1] in ("polite", "typo")}
    with pytest.raises(UserError, match=r"teacher.styles: found \['rude'\]"):
        Pipeline(HOME, RECIPE, params(styles=("rude",)), None, ROWS).rewrites(rows, "train")


def test_made_up_answers_fit_every_step_and_are_the_same_each_time(tmp_path):
    settings = params(backend="made_up", styles_per_row=7)
    runs = []
    for name in ("a", "b"):
        store = RowStore(tmp_path / name)
        asker = Asker(make_backend(settings), store, Limits(settings))
        made = Pipeline(HOME, RECIPE, settings, asker, ROWS)
        rows = [{**ROWS[0], "query": "stop", "call": {"name": "HassNevermind", "arguments": {}}}]
        runs.append(made.traces(rows, "train", []))
        asker.close()
    assert runs[0] == runs[1] and {t["status"] for t in runs[0]} == {"candidate"}
    assert len({t["text"] for t in runs[0]}) == 7
    assert all(t["grade"]["faithful"] == 5 for t in runs[0])
    assert {t["calls"][0]["call"] for t in runs[0]} == {None}  # words that are no tool's name


def test_a_task_without_a_teacher_is_taught_nothing(tmp_path):
    nothing = teach(HOME, params(backend="none"), {}, tmp_path / "none.jsonl.gz")
    assert nothing.traces == {"train": [], "dev": [], "test": []} and nothing.answers == []


# -- reading answers


@pytest.mark.parametrize(
    "response",
    [
        completion({"text": "hello"}),
        said('{"text": "hello"}'),
        said('Sure!\n```json\n{"text": "hello"}\n```'),
        said('{"name": "say", "arguments": {"text": "hello"}}'),
        said('{"text": "hello"} {"text": "other"}'),
    ],
)
def test_a_call_is_read_from_a_tool_call_or_from_text(response):
    call = response["choices"][0]["message"].get("tool_calls")
    if call:
        call[0]["function"]["name"] = "say"
    assert read_arguments(response, SAY) == {"text": "hello"}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (said("hello"), "no JSON object"),
        (said('{"text": "hel'), "no JSON object"),
        (said('{"text": 3}'), "text: 3 is not of type 'string'"),
        (said('{"text": "h"}'), "too short"),
        (said("{}"), "'text' is a required property"),
        (said('{"text": "hello", "more": 1}'), "Additional properties"),
        (said('{"name": "cry", "arguments": {"text": "hello"}}'), "called 'cry', expected 'say'"),
        (completion({"text": "hello"}), "called '', expected 'say'"),
        (said(None), "no JSON object"),
    ],
)
def test_what_is_no_legal_call_is_named(response, reason):
    with pytest.raises(CallError, match=reason):
        read_arguments(response, SAY)


def test_balanced_braces_ignore_those_in_strings():
    assert (
        balanced_object('x {"a": "}{\\"}", "b": {"c": 1}} y}') == '{"a": "}{\\"}", "b": {"c": 1}}'
    )
    assert balanced_object('{"a": "}') is None and balanced_object("none") is None


# -- examples and rows


def test_a_rewrite_is_never_shown_its_own_command():
    rows = [
        {"id": str(n), "query": f"set the den blinds to {n}", "call": {"name": str(n)}}
        for n in range(9)
    ]
    found = Retriever(rows).nearest("den blinds to 5 please", 3, hidden="5")
    assert len(found) == 3 and "5" not in {row["id"] for row in found}


def test_retrieved_examples_show_more_than_one_tool():
    rows = [{"id": f"{n}", "query": f"dim lamp {n}", "call": {"name": "a"}} for n in range(5)]
    rows.append({"id": "9", "query": "what a lamp", "call": {"name": "b"}})
    assert {row["call"]["name"] for row in Retriever(rows).nearest("dim lamp", 3, "")} == {"a", "b"}


def test_rows_are_taken_from_all_tools_alike():
    def row(tool, n, slices=()):
        return {"id": f"{tool}{n}", "call": {"name": tool}, "slices": list(slices)}

    rows = [row("a", n) for n in range(50)] + [row("b", n) for n in range(3)]
    rows += [row("b", 9, ["noise"]), row("no_call", 1)]
    chosen = choose_rows(rows, 10, frozenset({"noise"}))
    assert [r["call"]["name"] for r in chosen].count("b") == 3 and len(chosen) == 10
    assert chosen == choose_rows(rows[::-1], 10, frozenset({"noise"}))


# -- rules

BLINDS = {"name": "HassSetPosition", "arguments": {"name": "den blinds", "position": 30}}
COLOUR = {"name": "HassLightSet", "arguments": {"color": "red", "name": "desk lamp"}}
STATE = {"name": "HassGetState", "arguments": {"name": "side gate", "state": "open"}}
TIMER = {"name": "HassStartTimer", "arguments": {"minutes": 25}}


@pytest.mark.parametrize(
    ("command", "gold", "text", "reason"),
    [
        ("set the den blinds to 30", BLINDS, "could you put the den blinds at thirty", None),
        ("set the den blinds to 30", BLINDS, "Set the den blinds to 30!", "echo"),
        ("set the den blinds to 30", BLINDS, '{"text": "den blinds 30"}', "json_echo"),
        ("set the den blinds to 30", BLINDS, "set_position den blinds 30", "json_echo"),
        ("set the den blinds to 30", BLINDS, "would you like me to set the den blinds to 30",
         "assistant_speech"),
        ("set the den blinds to 30", BLINDS, "I've set the den blinds to 30", "assistant_speech"),
        ("set the den blinds to 30", BLINDS, "set the blinds to 30", "missing_value: den blinds"),
        ("set the den blinds to 30", BLINDS, "lower the den blinds", "missing_number: 30"),
        ("set the den blinds to 30", BLINDS, "the den blinds to 30 in 5 minutes", "added_number: 5"),
        ("set the den blinds to 30", BLINDS, "the den blinds in the pantry to 30", "added_name: pantry"),
        ("set the den blinds to 30", BLINDS, "are the den blinds at 30", "command_became_question"),
        ("set the den blinds to 30", BLINDS, "den blinds 30 " + "please " * 40, "too_long: 43 words"),
        ("make the desk lamp red", COLOUR, "desk lamp in red please", None),
        ("make the desk lamp red", COLOUR, "desk lamp red or green", "changed_choice: green"),
        ("is the side gate open", STATE, "open the side gate", "question_became_command"),
        ("is the side gate open", STATE, "um please open the side gate", "question_became_command"),
        ("is the side gate open", STATE, "I wonder if the side gate is open", None),
        ("set a timer for twenty-five minutes", TIMER, "timer 25 minutes", None),
        ("set a timer for twenty-five minutes", TIMER, "the big one, 25 minutes of timer", None),
        ("set a timer for twenty-five minutes", TIMER, "timer 20 minutes", "missing_number: 25"),
    ],
)  # fmt: skip
def test_rules(command, gold, text, reason):
    assert find_problem(text, command, call_from_json(gold), HOME, RECIPE) == reason


def test_the_examples_of_the_recipe_keep_its_own_rules():
    """An example that breaks a rule would teach the model to be rejected."""
    from supertiny.calls import ToolCall

    tool_of = {kind: tool for tool, kind in RECIPE.kind_of.items()}
    for kind, styles in RECIPE.examples.items():
        for pairs in styles.values():
            for command, rewrite in pairs:
                gold = ToolCall(tool_of[kind])
                assert find_problem(rewrite, command, gold, HOME, RECIPE) is None, rewrite


# -- the recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("styles"), "expected exactly the keys"),
        (lambda r: r["steps"].pop("call"), "steps: expected rewrite, call"),
        (lambda r: r["steps"]["call"].__setitem__("user", "$comand"), "steps.call.user: unknown"),
        (lambda r: r["steps"]["judge"].pop("top_p"), "steps.judge: expected exactly the keys"),
        (lambda r: r["steps"]["call"]["function"].__setitem__("parameters", {"type": 3}),
         "not a valid JSON Schema"),
        (lambda r: r["steps"]["rewrite"]["function"]["parameters"].pop("required"),
         r"must require \['text'\]"),
        (lambda r: r["kinds"]["talk"].pop(), "kinds: tool HassBroadcast is missing"),
        (lambda r: r["kinds"]["talk"].append("HassDance"), "HassDance is no tool of the task"),
        (lambda r: r["examples"]["talk"].pop("typo"), "examples.talk.typo: expected pairs"),
        (lambda r: r["reject"][0].__setitem__("patterns", ["("]), "reject: "),
        (lambda r: r["names"].append("names/none.txt"), "names/none.txt: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_recipe_is_named(tmp_path, change, message):
    shutil.copytree("tasks/home", tmp_path / "home")
    path = tmp_path / "home" / "teacher.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(recipe)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_recipe(load_task_folder(tmp_path / "home"))


def test_a_task_without_a_recipe_says_so(lamps):
    with pytest.raises(UserError, match="teacher.yaml: not found"):
        load_recipe(lamps)
