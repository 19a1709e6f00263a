"""Small pieces that the teacher's tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

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
    quick = {"backend": "openai", "backoff_s": 0.02, "timeout_s": 20.0, "max_attempts": 3}
    return dataclasses.replace(core.load(Teacher), **{**quick, **changes})
