"""The ONNX student: batches, limits, tokens, and what it must not need."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LESSONS
from hypothesis import given
from hypothesis import strategies as st

from supertiny.calls import ToolCall
from supertiny.decoding import MAX_BATCH, Greedy, equal_length_batches
from supertiny.errors import CallError, UserError
from supertiny.modelfolder import MODEL_FILES
from supertiny.runtime import OnnxStudent, spread

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def taught(taught_onnx):
    return OnnxStudent(taught_onnx)


def mixed_queries(count: int) -> list[str]:
    draw = random.Random(0)
    words = ["on", "off", "dim", "Hall", "garage", "30", "7", "please", "the", "light", "ñandú"]
    return [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_batch_answers_as_one_by_one(taught, batch_size):
    queries = mixed_queries(40) + [lesson["query"] for lesson in LESSONS]
    alone = [taught.answers([query], 10, 1)[0] for query in queries]
    assert taught.answers(queries, 10, batch_size) == alone
    assert len(set(alone)) > 4  # else a wrong order could not be seen


def test_a_batch_larger_than_the_engine_takes_is_split(taught):
    queries = [f"dim it to {number}" for number in range(10, 10 + MAX_BATCH + 5)]
    assert len({len(taught.encode(query)) for query in queries}) == 1
    assert len(taught.answers(queries, 10, 10 * MAX_BATCH)) == len(queries)


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 5))
def test_batches_hold_every_prompt_once_and_one_length(lengths, batch_size):
    prompts = [[index] * length for index, length in enumerate(lengths)]
    batches = list(equal_length_batches(prompts, batch_size))
    assert sorted(index for batch in batches for index in batch) == list(range(len(prompts)))
    assert all(len({len(prompts[index]) for index in batch}) == 1 for batch in batches)
    assert all(len(batch) <= batch_size for batch in batches)
    full = sum(-(-lengths.count(length) // batch_size) for length in set(lengths))
    assert len(batches) == full


def test_prompts_of_two_lengths_are_refused(taught):
    with pytest.raises(ValueError, match="one length"):
        taught.generate([[1, 2], [1, 2, 3]], 4)


def test_taught_commands_give_their_calls_in_the_casing_of_the_query(taught):
    assert taught.predict("Garage light on") == ToolCall("LightOn", {"area": "Garage"})
    assert taught.predict("please dim the Hall to 5").arguments == {"area": "Hall", "brightness": 5}
    assert taught.predict("who won the game last night") == ToolCall("no_call")


@pytest.fixture(scope="module")
def quoting(quoting_onnx):
    return OnnxStudent(quoting_onnx)


def test_what_nobody_said_is_written_again_in_words_of_the_query(taught, quoting):
    def not_said(query, found):
        return found.arguments.get("area", "").lower() not in query.lower()

    rooms = ("attic", "blue", "ñandú", "7", "gym 7")
    queries = [
        text for room in rooms for text in (f"{room} light on", f"please dim the {room} to 5")
    ]
    before = [taught.predict(query) for query in queries]
    assert sum(map(not_said, queries, before)) > 2  # else there is nothing to write again
    found = quoting.predict_many(queries)
    assert not any(map(not_said, queries, found))
    assert any("area" in call.arguments for call in found)
    for query, call in zip(queries, found, strict=True):
        stream = quoting.stream(query)
        list(stream)
        assert stream.prediction == call == quoting.predict(query)


@pytest.mark.parametrize(
    "room", ["日本", "日本 日光", "\U0003fb7d𤽯", "z\x7fz", "ﾐ\U000b7ba6", "\u2028"]
)
def test_what_cannot_be_forced_letter_by_letter_is_not_quoted(quoting, room):
    for query in (f"{room} light on", f"please dim the {room} to 5"):
        calls = [
            quoting.predict(query),
            quoting.scored_answers([query])[0].call(quoting.task, query),
        ]
        for call in calls:
            quoting.task.validate(ToolCall(call.name, call.arguments))


@pytest.mark.parametrize("scored", [False, True])
def test_a_grammar_that_forces_half_a_letter_is_an_error_of_the_call(taught, scored):
    """What an enumeration of a query's own tools may do."""
    prompt = taught.encode("garage light on")
    greedy = Greedy(taught.engine, [prompt], 16, 'start: " 日本" | " 旦那"', scored)
    with pytest.raises(CallError, match="a letter that takes several tokens"):
        greedy.finish()


def test_an_answer_ends_before_the_end_token_and_at_the_limit(taught):
    prompt = taught.encode("dim it to 30")
    whole = taught.generate([prompt], 64)[0]
    assert taught.decode(whole) == " dim\n brightness 30"
    assert taught.generate([prompt], 3)[0] == whole[:3]
    assert taught.generate([prompt], len(whole))[0] == whole
    longer = taught.encode("dim to 30 it")  # shares the batch, its answer may go on for longer
    assert taught.generate([prompt, longer], 64)[0] == whole


def is_legal(student, answer):
    try:
        return student.task.render_call(student.task.parse_call(answer)) == answer
    except CallError:
        return False


def test_half_a_call_is_no_call_though_it_reads_as_one(taught):
    query = "dim it to 30"
    ids = taught.generate([taught.encode(query)], 64)[0]
    readable = [n for n in range(1, len(ids)) if is_legal(taught, taught.decode(ids[:n]))]
    assert readable  # brightness 3
    for limit in [*readable, len(ids)]:
        with pytest.raises(CallError, match=f"did not end within {limit} tokens"):
            taught.predict(query, limit)
        assert isinstance(taught.predict_many([query], limit)[0], CallError)
    assert taught.predict(query, len(ids) + 1).name == "Dim"


@pytest.mark.parametrize(
    "query", ["٣٤ lamps", "½ ²", "dim 30%", "e\u0301", "😀 on", "a<|im_end|>b"]
)
def test_tokens_are_those_of_training(taught, tiny_model, query):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.bos_token + taught.task.render_prompt(query)
    assert taught.encode(query) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 2 not in taught.encode(query)


def test_a_query_at_the_limit_passes_and_one_token_more_does_not(taught):
    room = taught.max_prompt_tokens
    query = "7" * (room + 5)  # one token a digit
    while query:
        try:
            longest = taught.encode(query)
            break
        except CallError as error:
            found = int(str(error).split("found ")[1].split()[0])
            assert f"at most {room}" in str(error)
            assert found > room
            query = query[:-1]
    assert len(longest) == room


@pytest.mark.parametrize("query", ["", " \n", "\ud800"])
def test_what_is_no_text_is_refused(taught, query):
    with pytest.raises(CallError, match=r"blank|Unicode"):
        taught.predict(query)


def test_one_bad_query_does_not_lose_the_others(taught):
    queries = ["dim it to 30", "x" * 5000, "on", ""]
    results = taught.predict_many(queries)
    assert [isinstance(result, CallError) for result in results] == [False, True, False, True]
    assert results[0] == ToolCall("Dim", {"brightness": 30})
    assert results[2] == ToolCall("LightOn", {})


def test_a_conversation_is_answered_like_its_text(taught, lamps):
    turn = {"role": "user", "content": "dim it to 30"}
    call = {"role": "assistant", "call": {"name": "LightOn", "arguments": {}}}
    for messages in ([turn], [{**turn, "content": "on"}, call, turn]):
        text = lamps.as_query(messages)
        assert taught.encode(messages) == taught.encode(text)
        assert taught.predict(messages) == taught.predict(text)
        assert "".join(taught.stream(messages)) == "".join(taught.stream(text))
    many = taught.predict_many([[turn], [call], "on"])
    assert many[0] == ToolCall("Dim", {"brightness": 30}) and many[2] == ToolCall("LightOn", {})
    assert isinstance(many[1], CallError)


@pytest.mark.parametrize("name", [*MODEL_FILES, "task/tools.json"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(tiny_onnx, tmp_path, name):
    shutil.copytree(tiny_onnx, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(UserError, match=rf"{name}.*dvc repro.*dvc pull"):
        OnnxStudent(tmp_path / "model")
    with pytest.raises(UserError, match=r"not found.*dvc repro"):
        OnnxStudent(tmp_path / "none")


def test_a_copied_folder_runs_without_torch_and_without_a_checkout(taught_onnx, tmp_path):
    shutil.copytree(taught_onnx, tmp_path / "model")
    code = (
        "import sys; from supertiny.runtime import OnnxStudent\n"
        "print(OnnxStudent('model').predict('dim it to 30').arguments)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "{'brightness': 30}\n[]\n", done.stderr


@given(st.integers(0, 30), st.integers(1, 30))
def test_spread_is_even_keeps_order_and_repeats_nothing(size, count):
    chosen = spread(range(size), count)
    assert len(chosen) == min(size, count)
    assert chosen == sorted(set(chosen))
    assert spread(range(100), 4) == [0, 25, 50, 75]
