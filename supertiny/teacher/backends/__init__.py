"""Where answers come from: one small protocol, and what speaks it.

A backend makes one attempt at one question. Waiting, retrying, limits and keeping the answers are the
business of `supertiny.teacher.asking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from supertiny.params.teacher import Teacher
from supertiny.teacher.messages import Ask, Response


class CallFailed(Exception):
    """One attempt that gave no response.

    Args:
        reason: what went wrong, for the user; never holds a key or a header.
        retry: whether another attempt could go better.
        retry_after: seconds the server asked to be left alone; None where it did not say.
        billed: whether the provider may charge for the attempt all the same.
    """

    def __init__(
        self, reason: str, *, retry: bool, retry_after: float | None = None, billed: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry = retry
        self.retry_after = retry_after
        self.billed = billed


class Backend(Protocol):
    """Answers questions, one attempt at a time; many attempts may be in flight."""

    def check(self, missing: Sequence[Ask]) -> None:
        """Called once with what is to be asked, before any call.

        Raises:
            UserError: it cannot be asked here; the message says what to do.
        """
        ...

    async def complete(self, ask: Ask) -> Response:
        """The raw response, a chat completion; truncated and filtered ones too.

        Raises:
            CallFailed: there was none.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


def make_backend(params: Teacher) -> Backend:
    """The backend that the params name."""
    if params.backend == "openai":
        from supertiny.teacher.backends.openai import OpenAIBackend

        return OpenAIBackend(params.base_url, params.answer_via, params.timeout_s)
    if params.backend == "local":
        from supertiny.teacher.backends.local import LocalBackend

        return LocalBackend(
            params.path, params.precision, params.batch_size, threads=params.threads
        )
    if params.backend == "made_up":
        from supertiny.teacher.backends.made_up import MadeUpBackend

        return MadeUpBackend()
    from supertiny.teacher.backends.replay import ReplayBackend

    return ReplayBackend()
