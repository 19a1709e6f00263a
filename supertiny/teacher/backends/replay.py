"""The backend that asks nobody: what is not recorded cannot be had."""

from __future__ import annotations

from collections.abc import Sequence

from supertiny.errors import UserError
from supertiny.teacher.messages import Ask, Response

RECORD = "supertiny record --backend openai"
_SHOWN = 3


class ReplayBackend:
    """Refuses every question; the answers it stands for are in the row store."""

    def check(self, missing: Sequence[Ask]) -> None:
        """Raises `UserError` with the number and the first keys of what is missing, if anything is."""
        if not missing:
            return
        first = ", ".join(ask.key[:16] for ask in missing[:_SHOWN])
        raise UserError(
            f"{len(missing)} answer(s) of the teacher are not recorded (first keys: {first}); the "
            "prompts, the params or the rows differ from those of the recording. Bring them back, "
            f"or record what is missing: `{RECORD}` (any OpenAI-compatible server) or "
            "`supertiny record --backend local`"
        )

    async def complete(self, ask: Ask) -> Response:
        """Never answers; `check` has refused before."""
        raise AssertionError("replay was asked for a row that is not recorded")

    async def close(self) -> None:
        """Nothing to let go of."""
