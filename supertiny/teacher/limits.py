"""Limits of one run: calls, money, requests and tokens a minute.

Money is reserved for the dearest answer a call can give before the call is made, and settled with what
the server counted after it, so `max_usd` holds whatever comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from supertiny.params.teacher import Teacher
from supertiny.teacher.messages import Ask, Usage

MINUTE = 60.0
_PER_MESSAGE = 16  # tokens a chat template puts around a message, rounded up


class LimitReached(Exception):
    """`max_calls` or `max_usd` allows no further call; the message names the limit and its value."""


@dataclass(eq=False)
class Reservation:
    """What a call may cost at most, until it is settled."""

    at: float
    tokens: int
    usd: float


class Limits:
    """Admits calls one by one.

    Args:
        clock: seconds that only go forward.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        params: Teacher,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.params = params
        self.calls = 0
        self.usd = 0.0
        self._clock = clock
        self._sleep = sleep
        self._open: set[Reservation] = set()
        self._window: deque[Reservation] = deque()
        self._quiet_until = 0.0
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()

    async def reserve(self, ask: Ask) -> Reservation:
        """Wait until a call may start, and count it.

        Raises:
            LimitReached: no call may start in this run any more.
        """
        prompt, answer = most_prompt_tokens(ask), ask.request["max_tokens"]
        usd = price(Usage(prompt, answer), self.params)
        async with self._turn:  # one at a time, in the order they came
            await self._wait_for_quiet()
            await self._wait_for_rate(prompt + answer)
            await self._wait_for_money(usd)
            if 0 < self.params.max_calls <= self.calls:
                raise LimitReached(f"max_calls: {self.params.max_calls} calls are made")
            self.calls += 1
            reservation = Reservation(self._clock(), prompt + answer, usd)
            self._open.add(reservation)
            self._window.append(reservation)
            return reservation

    def settle(self, reservation: Reservation, usage: Usage | None, *, billed: bool = True) -> None:
        """Put what a call really cost in the place of what it could have cost.

        Without ``usage`` a call that may have been billed counts in full: the limit must hold.
        """
        self._open.discard(reservation)
        if usage is not None:
            reservation.tokens = usage.prompt_tokens + usage.completion_tokens
            self.usd += price(usage, self.params)
        elif billed:
            self.usd += reservation.usd
        self._settled.set()

    def pause(self, seconds: float) -> None:
        """Let no call start for that long, because the server asked for it."""
        self._quiet_until = max(self._quiet_until, self._clock() + seconds)

    async def _wait_for_quiet(self) -> None:
        while (rest := self._quiet_until - self._clock()) > 0:
            await self._sleep(rest)

    async def _wait_for_rate(self, tokens: int) -> None:
        """No window of a minute holds more than the limits; a call over the token limit goes alone."""
        requests, most = self.params.requests_per_minute, self.params.tokens_per_minute
        while True:
            now = self._clock()
            while self._window and self._window[0].at <= now - MINUTE:
                self._window.popleft()
            used = sum(entry.tokens for entry in self._window) if most else 0
            too_many = 0 < requests <= len(self._window)
            too_much = most > 0 and used + tokens > most and bool(self._window)
            if not too_many and not too_much:
                return
            await self._sleep(self._window[0].at + MINUTE - now)

    async def _wait_for_money(self, usd: float) -> None:
        most = self.params.max_usd
        while most and self.usd + sum(entry.usd for entry in self._open) + usd > most:
            if self.usd + usd > most or not self._open:
                raise LimitReached(
                    f"max_usd: {self.usd:.4f} of {most:g} USD are spent and the next call could "
                    f"cost {usd:.4f}"
                )
            # A call in flight will most likely cost less than is reserved for it.
            self._settled.clear()
            await self._settled.wait()


def price(usage: Usage, params: Teacher) -> float:
    """What tokens cost, in USD."""
    sent = usage.prompt_tokens * params.usd_per_million_prompt_tokens
    return (sent + usage.completion_tokens * params.usd_per_million_answer_tokens) / 1e6


def most_prompt_tokens(ask: Ask) -> int:
    """An upper bound: no byte-level tokenizer makes more tokens than there are bytes."""
    texts = [message["content"] for message in ask.messages]
    texts.append(str(ask.request["function"]))
    return sum(len(text.encode()) + _PER_MESSAGE for text in texts)
