"""A backend without an LLM, for the smoke profile: its answers fit the schemas and mean nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import orjson

from supertiny.teacher.messages import Ask, Response

_WORDS = ["well", "now", "then", "once", "more", "for", "me", "if", "you", "can", "so", "good"]
_LENGTH = 6


class MadeUpBackend:
    """Answers each question at once, from its function's schema and its seed alone."""

    def check(self, missing: Sequence[Ask]) -> None:
        """Can always be asked."""

    async def complete(self, ask: Ask) -> Response:
        """A completion whose text is the arguments of the function asked for."""
        arguments = _made_up(ask.request["function"]["parameters"], random.Random(ask.seed))
        message = {"role": "assistant", "content": orjson.dumps(arguments).decode()}
        return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}

    async def close(self) -> None:
        """Nothing to let go of."""


def _made_up(schema: dict[str, Any], draw: random.Random) -> Any:
    """A value of a schema: of objects what they require, of numbers the highest, of texts words."""
    if schema["type"] == "object":
        properties = schema.get("properties", {})
        return {key: _made_up(properties[key], draw) for key in schema.get("required", ())}
    if schema["type"] == "string":
        return " ".join(draw.sample(_WORDS, _LENGTH))
    return schema.get("maximum", 0)
