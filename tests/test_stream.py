"""A streamed answer: every piece at once, nothing that must be taken back, the same call at the end."""

from __future__ import annotations

from contextlib import suppress

import pytest
from conftest import LESSONS
from llguidance import LLMatcher, LLTokenizer

from supertiny.errors import CallError
from supertiny.runtime import OnnxStudent, Stream

QUERIES = [lesson["query"] for lesson in LESSONS]


@pytest.fixture(scope="module")
def taught(taught_onnx):
    return OnnxStudent(taught_onnx)


@pytest.fixture(scope="module")
def knows_nothing(tiny_onnx):
    return OnnxStudent(tiny_onnx)


def begins_a_call(student, text):
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(student.grammar))
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data)


@pytest.mark.parametrize("query", QUERIES)
def test_a_stream_ends_in_the_call_that_predict_gives(taught, query):
    stream = taught.stream(query)
    text = "".join(stream)
    assert text == taught.answers([query], batch_size=1)[0]
    assert stream.prediction == taught.predict(query)


@pytest.mark.parametrize("model", ["taught", "knows_nothing"])
def test_all_that_has_come_begins_a_legal_call(request, model):
    student = request.getfixturevalue(model)
    assert not begins_a_call(student, " light on\n smell")  # else nothing could be seen here
    for query in ["please dim the Hall to 5", "Garage light on", "lamp"]:
        text = ""
        with suppress(CallError):  # what did not end is no call, and begins one all the same
            for piece in student.stream(query, 24):
                assert piece
                text += piece
                assert begins_a_call(student, text), text
        assert text


def test_the_tool_comes_before_its_arguments_are_decoded(taught):
    stream = taught.stream("please dim the Hall to 5")
    pieces, text = iter(stream), ""
    while "dim\n" not in text:
        text += next(pieces)
    assert "hall" not in taught.decode(stream._greedy.ids())
    assert stream.prediction is None
    assert "hall" in "".join(pieces)


class Scripted:
    """A decoding whose answer is known."""

    scored, limit = False, 64

    def __init__(self, tokens):
        self.tokens, self.taken = tokens, 0

    def __iter__(self):
        for taken in range(1, len(self.tokens) + 1):
            self.taken = taken
            yield

    def ids(self, row=0):
        return self.tokens[: self.taken]


@pytest.mark.parametrize("name", ["ñandú 😀 x", "😀", "a\ufffdb", "a\ufffd"])
def test_a_character_comes_when_it_is_whole(taught, name):
    answer = f" light on\n area {name}"
    tokens = taught.tokenizer.encode(answer, add_special_tokens=False).ids
    stream = Stream(taught, Scripted(tokens), taught._prompt(name), name)
    text = ""
    for piece in stream:
        text += piece
        assert answer.startswith(text)
    assert text == answer
    assert stream.prediction.arguments == {"area": name}


def test_what_predict_refuses_a_stream_refuses(taught):
    with pytest.raises(CallError, match="blank"):
        taught.stream(" ")
    stream = taught.stream("dim it to 30", 1)
    with pytest.raises(CallError, match="did not end within 1 tokens"):
        list(stream)
    assert stream.prediction is None
