"""Small pieces that the teacher's tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

from llmserver import completion

from supertiny.params import core
from supertiny.params.teacher import Teacher
from supertiny.teacher.messages import Ask, Function, make_request

SAY = Function(
    "say",
    "Says it.",
    {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 2}},
        "required": ["text"],
        "additionalProperties": False,
    },
)


def ask(text: str, sample: int = 0, function: Function = SAY, max_tokens: int = 20) -> Ask:
    """A question of one line."""
    messages = [{"role": "system", "content": "Say it."}, {"role": "user", "content": text}]
    request = make_request(
        "model", messages, function, temperature=0.0, top_p=1.0, max_tokens=max_tokens
    )
    return Ask(request, sample)


def params(**changes: Any) -> Teacher:
    """The committed params, quick to give up, with changes."""
    quick = {
        "backend": "openai",
        "styles": (),
        "call_samples": 1,
        "judge": "all",
        "verify": "all",
        "dev_styles_per_row": 2,
        "backoff_s": 0.02,
        "timeout_s": 20.0,
        "max_attempts": 3,
    }
    return dataclasses.replace(core.load(Teacher), **{**quick, **changes})


def user(ask: Any) -> str:
    """What the user says in a question."""
    return ask.messages[1]["content"]


def is_repair(ask: Any) -> bool:
    """Whether a question quotes the mistake in an answer before."""
    return len(ask.messages) > 2


def command_of(ask: Any) -> str:
    """The command that a rewrite or a grade is asked of."""
    return user(ask).split("Command: ")[-1].split("\n")[0]


def good(ask: Any) -> Any:
    """What a perfect model would say."""
    step = ask.request["function"]["name"]
    if step == "say":
        style = ask.messages[0]["content"].split("Style: ")[1].split(".")[0]
        return through(ask, {"text": f"{command_of(ask)} {style} would you"})
    if step == "call":
        return through(
            ask, {"tool": "position", "arguments": {"name": "den blinds", "position": 30}}
        )
    return through(ask, {"reason": "the same", "faithful": 5, "natural": 4})


def through(ask: Any, arguments: Any, **options: Any) -> Any:
    """A completion that calls the function asked for."""
    found = completion(arguments, **options)
    name = ask.request["function"]["name"]
    found["choices"][0]["message"]["tool_calls"][0]["function"]["name"] = name
    return found


ROWS = [
    {"id": "1", "query": "set the den blinds to 30", "slices": [], "source": "template",
     "call": {"name": "HassSetPosition", "arguments": {"name": "den blinds", "position": 30}}},
]  # fmt: skip
