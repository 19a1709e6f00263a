"""The grammar allows every legal call and nothing else."""

import random
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from llguidance import LLMatcher, LLTokenizer
from test_calls import home_calls

from supertiny.calls import NO_CALL, Tool, ToolCall, parse_call, render_call
from supertiny.errors import CallError
from supertiny.grammar import lark_grammar
from supertiny.quoting import places
from supertiny.task import load_task

BYTES = LLTokenizer("byte")
ENDS = [*b'"\n]', 256]  # bytes that end a value, and the end of the text
HOME = load_task("home")
MIXED = {
    "mix": Tool(
        "mix",
        "mix it",
        "",
        {
            "type": "object",
            "properties": {
                "word": {"type": "string", "minLength": 2, "maxLength": 4},
                "size": {"anyOf": [{"enum": ["up", 7, "7", None]}, {"type": "boolean"}]},
                "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
                "half": {"type": "number", "minimum": -1, "maximum": 1},
                "note": {"type": ["string", "null"]},
            },
            "required": ["size"],
            "additionalProperties": False,
        },
    )
}


# Names without control characters, and that do not begin as JSON does.
PLAIN = re.compile(r'[^\s"\[{\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?')


@cache
def compiled(grammar: str) -> LLMatcher:
    matcher = LLMatcher(BYTES, grammar)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def allowed(grammar: str, text: str) -> bool:
    matcher = compiled(grammar).deep_copy()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


HOME_GRAMMAR = LLMatcher.grammar_from_lark(lark_grammar(HOME.tools))
MIXED_GRAMMAR = LLMatcher.grammar_from_lark(lark_grammar(MIXED))


@given(home_calls())
@settings(max_examples=150)
def test_every_legal_call_is_allowed(call):
    for value in call.arguments.values():
        assume(not isinstance(value, str) or PLAIN.fullmatch(value))
    assert allowed(HOME_GRAMMAR, render_call(call, HOME.tools))


@pytest.mark.parametrize("call", [NO_CALL, ToolCall("HassGetCurrentTime")])
def test_a_call_without_arguments_is_allowed_and_ends(call):
    text = render_call(call, HOME.tools)
    assert allowed(HOME_GRAMMAR, text)
    assert not allowed(HOME_GRAMMAR, text + "\n area kitchen")
    assert not allowed(HOME_GRAMMAR, text[:-1])


@pytest.mark.parametrize(
    "text",
    [
        " dance",
        " light\n brightness 101",
        " light\n brightness thirty",
        " light\n color mauve",
        " light\n area 30",
        " light\n area hall\n area hall",
        " light\n name lamp\n area hall",
        " light\n smell roses",
        " louder",
        '{"name": "HassLightSet"}',
    ],
)
def test_what_is_no_call_is_not(text):
    assert not allowed(HOME_GRAMMAR, text)


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        (" mix it\n size 7", True),
        (' mix it\n size "7"', True),
        (" mix it\n size null", True),
        (" mix it\n size true", True),
        (" mix it\n size 8", False),
        (" mix it", False),
        (" mix it\n word abcd\n size up", True),
        (" mix it\n word abcde\n size up", False),
        (" mix it\n word a\n size up", False),
        (' mix it\n word "12"\n size up', True),
        (" mix it\n word 12\n size up", False),
        (" mix it\n size up\n list [1, 2]", True),
        (" mix it\n size up\n list [1, 2, 3]", False),
        (" mix it\n size up\n half 1.5", False),
        (" mix it\n size up\n half -0.5\n note null", True),
        (" mix it\n size up\n note nulls", True),
    ],
)
def test_each_kind_of_schema(text, legal):
    assert allowed(MIXED_GRAMMAR, text) is legal
    try:
        parse_call(text, MIXED)
    except CallError:
        assert not legal
    else:
        assert legal


@pytest.mark.parametrize(("grammar", "tools"), [(HOME_GRAMMAR, HOME.tools), (MIXED_GRAMMAR, MIXED)])
@pytest.mark.parametrize("seed", range(15))
def test_whatever_the_grammar_lets_through_is_a_legal_call(grammar, tools, seed):
    """A model that likes all tokens alike, decoded under the grammar."""
    rng = random.Random(seed)
    matcher = compiled(grammar).deep_copy()
    text = bytearray()
    while not matcher.is_stopped():
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        tokens = np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()
        if matcher.is_accepting() and (len(text) > 150 or rng.random() < 0.1):
            break
        ends = [token for token in tokens if token in ENDS]
        token = rng.choice(ends if ends and len(text) > 60 else tokens)
        if token >= 256:
            break
        assert matcher.consume_token(token)
        text.append(token)
        assert len(text) < 2000
    parse_call(text.decode(), tools)


def test_what_quotes_is_a_run_of_words_that_were_said():
    said = places("Set channel 7 on the sky q box, please", 4)
    grammar = LLMatcher.grammar_from_lark(lark_grammar(HOME.tools, said))

    def allows(**arguments):
        return allowed(grammar, HOME.render_call(ToolCall("HassTurnOn", arguments)))

    assert all(allows(name=name) for name in ("sky q box", "7", "channel", "the sky q box"))
    for name in ("sky box", "awning", "sk", "box, please do", "Set channel 7 on the", ""):
        assert not allows(name=name)
    assert allows(domain="light", floor="the sky")  # what names a choice is no quotation
    assert not allows(domain="the sky")


def test_where_nothing_that_was_said_fits_any_text_does():
    call = HOME.render_call(ToolCall("HassTurnOn", {"name": "lamp"}))
    assert allowed(LLMatcher.grammar_from_lark(lark_grammar(HOME.tools, [])), call)
