"""Limits with a clock of the test's own: windows of a minute, reserved money, pauses."""

import asyncio

import pytest
from teaching import ask, params

from supertiny.teacher.limits import LimitReached, Limits, most_prompt_tokens
from supertiny.teacher.messages import Usage


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


def limits(**changes):
    clock = Clock()
    return Limits(params(**changes), clock, clock.sleep), clock


async def times(found, clock, count, usage=None, question=None):
    at = []
    for _ in range(count):
        reservation = await found.reserve(question or ask("a"))
        at.append(clock.now - 1000)
        if usage:
            found.settle(reservation, usage)
    return at


def test_no_window_of_a_minute_holds_more_requests():
    found, clock = limits(requests_per_minute=3)
    assert asyncio.run(times(found, clock, 7)) == [0, 0, 0, 60, 60, 60, 120]


def test_tokens_are_reserved_and_then_counted():
    most = most_prompt_tokens(ask("a")) + 20
    found, clock = limits(tokens_per_minute=most + 10)
    assert asyncio.run(times(found, clock, 2)) == [0, 60]
    found, clock = limits(tokens_per_minute=most + 10)
    assert asyncio.run(times(found, clock, 4, Usage(4, 1))) == [0, 0, 0, 60]


def test_a_call_over_the_token_limit_goes_alone_rather_than_never():
    found, clock = limits(tokens_per_minute=1)
    assert asyncio.run(times(found, clock, 2)) == [0, 60]


def test_a_pause_holds_the_next_call():
    found, clock = limits()
    found.pause(7)
    assert asyncio.run(times(found, clock, 2)) == [7, 7]


def test_money_is_reserved_for_the_dearest_answer():
    # 20 answer tokens at 50,000 USD a million are 1 USD.
    found, _ = limits(max_usd=2.5, usd_per_million_answer_tokens=50_000)

    async def spend():
        first, second = await found.reserve(ask("a")), await found.reserve(ask("b"))
        waiting = asyncio.create_task(found.reserve(ask("c")))
        await asyncio.sleep(0.01)
        assert not waiting.done()  # 2 USD are reserved; a third could break the limit
        found.settle(first, Usage(1, 2))  # 0.1 USD
        third = await waiting
        found.settle(second, None, billed=True)  # nobody knows, so it counts in full
        found.settle(third, None, billed=False)
        assert found.usd == pytest.approx(1.1)
        fourth = await found.reserve(ask("d"))
        waiting = asyncio.create_task(found.reserve(ask("e")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        found.settle(fourth, Usage(0, 20))
        with pytest.raises(LimitReached, match="max_usd: 2.1000 of 2.5 USD"):
            await waiting

    asyncio.run(spend())
    assert found.usd <= 2.5 and found.calls == 4


def test_a_call_that_can_never_be_paid_is_refused_at_once():
    found, _ = limits(max_usd=0.5, usd_per_million_answer_tokens=50_000)
    with pytest.raises(LimitReached, match="0.0000 of 0.5 USD are spent"):
        asyncio.run(found.reserve(ask("a")))
    assert found.calls == 0


def test_the_token_bound_is_over_what_any_byte_tokenizer_makes():
    text = "dim 🎉 ü " * 50
    assert most_prompt_tokens(ask(text)) >= len(text.encode()) + 2 * 16
