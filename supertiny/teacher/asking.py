"""Puts questions to a backend, as many at once as allowed, and keeps every answer as it comes.

What the store holds is not asked again. At a limit, on SIGINT, or when the server fails row after row,
no new call starts, those in flight are finished and kept, and `Stopped` says how to go on.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

from supertiny.teacher.backends import Backend, CallFailed
from supertiny.teacher.limits import LimitReached, Limits
from supertiny.teacher.messages import Ask, Response, unusable_reason, usage_of
from supertiny.teacher.store import RowStore

STOPPED_CODE = 3  # exit code at a limit, or when calls got no answer
INTERRUPTED_CODE = 130
_GIVE_UP_AFTER = 20  # rows in a row without any answer: the server is down, not unlucky
_LONGEST_BACKOFF = 120.0
_BATCHES = 16  # that a model in this process can choose from
_T = TypeVar("_T")


class Stopped(Exception):
    """The run ended before its end, with all it had finished kept.

    Args:
        reason: why, in words.
        code: exit code for the process.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(
            f"stopped: {reason}. Every finished answer is kept: run the same command again to go on"
        )
        self.code = code


@dataclass(frozen=True)
class Answer:
    """What became of a question: the raw response, or why the model gave no usable one."""

    response: Response | None
    failure: str | None = None


class Asker:
    """Asks through one backend, one store and one set of limits for a whole run; close it at the end.

    Args:
        replay: a question that the recording knows to have no usable answer stays without one; in a
            live run it is put again.
    """

    def __init__(
        self, backend: Backend, store: RowStore, limits: Limits, *, replay: bool = False
    ) -> None:
        self.backend = backend
        self.store = store
        self.limits = limits
        self.replay = replay
        self.used: set[str] = set()  # keys of all questions of this run
        self._runner = asyncio.Runner()

    def ask(self, asks: Sequence[Ask], label: str) -> dict[str, Answer]:
        """The answer to each question by its key; equal questions are asked once.

        Raises:
            Stopped: not all of them could be asked.
            UserError: the backend cannot be asked at all.
        """
        unique = {ask.key: ask for ask in asks}
        self.used |= unique.keys()
        missing = [ask for ask in unique.values() if not self._known(ask.key)]
        self.backend.check(missing)
        if missing:
            self._runner.run(_Round(self, missing, len(unique), label).run())
        return {key: self._answer(key) for key in unique}

    def time(self, asks: Sequence[Ask]) -> list[float]:
        """Seconds that each question takes when it is asked alone; no answer is kept.

        Within the limits, and without a second attempt.

        Raises:
            Stopped: a limit was reached, or a question got no answer.
        """
        return self._runner.run(self._time(asks))

    async def _time(self, asks: Sequence[Ask]) -> list[float]:
        seconds = []
        for ask in asks:
            try:
                reservation = await self.limits.reserve(ask)
                started = perf_counter()
                response = await self.backend.complete(ask)
            except (LimitReached, CallFailed) as error:
                raise Stopped(str(error), STOPPED_CODE) from None
            seconds.append(perf_counter() - started)
            self.limits.settle(reservation, usage_of(response))
        return seconds

    def close(self) -> None:
        """Close the backend and sync the store."""
        try:
            self._runner.run(self.backend.close())
        finally:
            self._runner.close()
            self.store.close()

    def _known(self, key: str) -> bool:
        failed = self.replay and self.store.failure(key) is not None
        return failed or self.store.answer(key) is not None

    def _answer(self, key: str) -> Answer:
        response = self.store.answer(key)
        return Answer(response, None if response else self.store.failure(key))


class _Round:
    """One call of `Asker.ask`: a queue of questions and the workers that empty it."""

    def __init__(self, asker: Asker, missing: list[Ask], total: int, label: str) -> None:
        self.asker = asker
        self.limits = asker.limits
        self.params = asker.limits.params
        self.queue = deque(missing)
        self.reused = total - len(missing)
        self.bar = tqdm(total=total, initial=self.reused, desc=label, unit="row", mininterval=1)
        self.stopping = asyncio.Event()
        self.stop_reason: tuple[str, int] | None = None
        self.unusable = 0
        self.errors: list[str] = []
        self.errors_in_a_row = 0

    async def run(self) -> None:
        with self.bar, _on_sigint(self._interrupted):
            count = min(self._in_flight(), len(self.queue))
            await asyncio.gather(*(self._work() for _ in range(count)))
        if self.stop_reason is not None:
            raise Stopped(*self.stop_reason)
        if self.errors:
            raise Stopped(
                f"{len(self.errors)} row(s) got no answer, the last: {self.errors[-1]}",
                STOPPED_CODE,
            )

    def _in_flight(self) -> int:
        params = self.params
        # A model in this process makes batches of those that start alike among what waits.
        return params.batch_size * _BATCHES if params.backend == "local" else params.concurrency

    async def _work(self) -> None:
        while self.queue and not self.stopping.is_set():
            await self._one(self.queue.popleft())
            self._show()

    async def _one(self, ask: Ask) -> None:
        error: CallFailed | None = None
        for attempt in range(self.params.max_attempts):
            if attempt:
                await self._back_off(attempt)
            try:
                reservation = await self._unless_stopping(self.limits.reserve(ask))
            except LimitReached as limit:
                self._stop(str(limit), STOPPED_CODE)
                return
            if reservation is None:
                return
            try:
                response = await self.asker.backend.complete(ask)
            except CallFailed as failed:
                error = failed
                self.limits.settle(reservation, None, billed=failed.billed)
                if failed.retry_after is not None:
                    self.limits.pause(failed.retry_after)
                if failed.retry:
                    continue
                break
            self.limits.settle(reservation, usage_of(response))
            self._keep(ask, response)
            return
        assert error is not None
        self._gave_up(str(error))

    def _keep(self, ask: Ask, response: Response) -> None:
        self.errors_in_a_row = 0
        reason = unusable_reason(response)
        if reason is None:
            self.asker.store.add(ask, response)
        else:
            self.unusable += 1
            self.asker.store.note_failure(ask, reason)
        self.bar.update()

    def _gave_up(self, error: str) -> None:
        self.errors.append(error)
        self.errors_in_a_row += 1
        if self.errors_in_a_row >= _GIVE_UP_AFTER:
            self._stop(f"{self.errors_in_a_row} rows in a row got no answer: {error}", STOPPED_CODE)

    async def _back_off(self, attempt: int) -> None:
        # Anywhere between nothing and the full wait: callers that failed together come back apart.
        longest = min(self.params.backoff_s * 2 ** (attempt - 1), _LONGEST_BACKOFF)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), random.uniform(0, longest))

    async def _unless_stopping(self, waiting: Awaitable[_T]) -> _T | None:
        """The result, or None if the run is being stopped before it is there."""
        task = asyncio.ensure_future(waiting)
        stop = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    def _stop(self, reason: str, code: int) -> None:
        if self.stop_reason is None:
            self.stop_reason = (reason, code)
        self.stopping.set()

    def _interrupted(self) -> None:
        if self.stopping.is_set():
            raise KeyboardInterrupt  # asked twice: what is in flight is given up
        self.bar.write("interrupted: finishing what is in flight (Ctrl-C again to give it up)")
        self._stop("interrupted", INTERRUPTED_CODE)

    def _show(self) -> None:
        failed = self.unusable + len(self.errors)
        done = self.bar.n - self.reused
        money = f"{self.limits.usd:.2f} USD"
        self.bar.set_postfix_str(
            f"done {done}, reused {self.reused}, failed {failed}, {money}", refresh=False
        )


@contextmanager
def _on_sigint(handler: object) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, handler)  # type: ignore[arg-type]
    except (ValueError, RuntimeError):  # not in the main thread: nobody can interrupt us there
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
