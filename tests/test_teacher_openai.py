"""The OpenAI-compatible backend and the asker against a real, hostile HTTP server."""

import json
import os
import signal
import threading
import time
from email.utils import formatdate

import pytest
from llmserver import Reply, completion, ok, said, serve
from teaching import ask, params

from supertiny.errors import UserError
from supertiny.teacher.asking import Asker, Stopped
from supertiny.teacher.backends import make_backend
from supertiny.teacher.backends.openai import retry_after_seconds
from supertiny.teacher.limits import Limits
from supertiny.teacher.store import RowStore

GOOD = ok(completion({"text": "hello"}))


def user_text(posted):
    return posted["messages"][1]["content"]


def run(server, tmp_path, texts, **changes):
    """Ask each text; the answers by text, and the store as another process would read it."""
    settings = params(base_url=server.url, **changes)
    path = tmp_path / "rows.jsonl"
    asker = Asker(make_backend(settings), RowStore(path), Limits(settings))
    try:
        answers = asker.ask([ask(text) for text in texts], "test")
    finally:
        asker.close()
    return [answers[ask(text).key] for text in texts], RowStore(path)


def stop_of(server, tmp_path, texts, **changes):
    with pytest.raises(Stopped) as caught:
        run(server, tmp_path, texts, **changes)
    return caught.value


def first_then_good(reply):
    return lambda posted, count: reply if count == 1 else GOOD


@pytest.mark.parametrize(
    "bad",
    [
        Reply(b"busy", status=500),
        Reply(b"", status=503),
        Reply(GOOD.body, cut=len(GOOD.body) // 2),
        Reply(GOOD.body, cut=0),
        Reply(b'{"choices": [{"message"'),
        Reply(b"<html>gateway</html>"),
        Reply(b'{"choices": []}'),
        Reply(b"[1, 2]"),
        Reply(b"NaN"),
        Reply(b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}'),
        Reply(b'{"choices": [{"message": {"content": "a"}, "finish_reason": "weird"}]}'),
        ok(said("a", finish="error")),
        Reply(GOOD.body, delay=8),
    ],
    ids=["500", "503", "half", "nothing", "half_json", "html", "no_choices", "list", "nan",
         "surrogate", "weird_finish", "error_finish", "hang"],
)  # fmt: skip
def test_a_bad_answer_is_not_kept_and_asked_again(tmp_path, bad):
    with serve(first_then_good(bad)) as server:
        hang = {"timeout_s": 2, "max_attempts": 20} if bad.delay else {}
        answers, store = run(server, tmp_path, ["a"], answer_via="tools", **hang)
    assert answers[0].response["choices"]
    # A busy machine may be late more than once.
    assert len(server.requests) == 2 or (bad.delay and len(server.requests) > 2)
    assert len(store) == 1 and store.answer(ask("a").key) == answers[0].response


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "truncated"), ("content_filter", "filtered")]
)
def test_a_cut_off_answer_is_a_failure_and_is_asked_again_next_time(tmp_path, finish, reason):
    bad = ok(completion({"text": "never en"}, finish=finish))
    with serve(first_then_good(bad)) as server:
        answers, store = run(server, tmp_path, ["a"])
        assert answers[0].response is None and answers[0].failure == reason
        assert store.answer(ask("a").key) is None and store.failure(ask("a").key) == reason
        answers, store = run(server, tmp_path, ["a"])
    assert answers[0].response is not None and len(server.requests) == 2


def test_retry_after_keeps_every_worker_away(tmp_path):
    told = Reply(b"slow down", status=429, headers={"Retry-After": "1"})
    refused = threading.Event()

    def script(posted, count):
        if not refused.is_set():
            refused.set()
            return told
        return GOOD

    with serve(script) as server:
        run(server, tmp_path, ["a", "b", "c"], concurrency=1)
    assert len(server.requests) == 4
    assert server.times[1] - server.times[0] >= 0.99


def test_retry_after_as_a_number_a_date_and_nonsense():
    assert retry_after_seconds("2.5") == 2.5
    assert 8 < retry_after_seconds(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_seconds("-3") == 0 and retry_after_seconds("1e9") == 3600
    assert [retry_after_seconds(v) for v in (None, "soon", "nan")] == [None] * 3


def test_what_is_known_is_not_asked_again(tmp_path):
    with serve(lambda *_: GOOD) as server:
        run(server, tmp_path, ["a", "b", "a"])
        assert len(server.requests) == 2
        run(server, tmp_path, ["b", "c"])
        assert len(server.requests) == 3


def test_concurrency_is_used_and_kept(tmp_path):
    slow = Reply(GOOD.body, delay=0.3)
    with serve(lambda *_: slow) as server:
        run(server, tmp_path, [str(n) for n in range(24)], concurrency=5)
    assert server.busiest == 5


def test_tools_where_the_server_has_them(tmp_path):
    with serve(lambda *_: GOOD) as server:
        run(server, tmp_path, ["a"])
    posted = server.requests[0]
    assert posted["tools"][0]["function"]["name"] == "say"
    assert posted["tool_choice"] == "required"
    assert "response_format" not in posted and posted["seed"] == ask("a").seed


@pytest.mark.parametrize("status", [400, 422, 501, 200])
def test_a_json_schema_where_it_has_none(tmp_path, status):
    """A server may refuse tools, or take no notice of them."""
    ignored = Reply(ok(said("Hi there!")).body if status == 200 else b"tools?", status=status)

    def script(posted, _):
        return ignored if "tools" in posted else ok(said('{"text": "hi"}'))

    with serve(script) as server:
        _, store = run(server, tmp_path, ["a", "b", "c"], concurrency=1)
    schema = server.requests[-1]["response_format"]["json_schema"]
    assert schema["schema"] == ask("a").request["function"]["parameters"]
    assert len(server.requests) == 4  # the refusal is asked for once, not once a row
    assert len(store) == 3


def test_how_it_is_asked_is_no_part_of_the_key(tmp_path):
    with serve(lambda *_: GOOD) as server:
        run(server, tmp_path, ["a"], answer_via="tools")
        run(server, tmp_path, ["a"], answer_via="json_schema")
    assert len(server.requests) == 1


def test_a_hopeless_request_is_not_repeated(tmp_path):
    with serve(lambda *_: Reply(b"no such model", status=404)) as server:
        stopped = stop_of(server, tmp_path, ["a"], answer_via="tools")
    assert "HTTP 404: no such model" in str(stopped) and stopped.code == 3
    assert len(server.requests) == 1


def test_a_server_that_only_fails_is_left_alone_after_twenty_rows(tmp_path):
    with serve(lambda *_: Reply(b"down", status=500)) as server:
        texts = [str(n) for n in range(60)]
        stopped = stop_of(
            server, tmp_path, texts, concurrency=1, max_attempts=1, answer_via="tools"
        )
    assert "20 rows in a row got no answer: HTTP 500" in str(stopped)
    assert len(server.requests) == 20


def test_one_row_without_an_answer_keeps_the_others_and_says_how_to_go_on(tmp_path):
    down = threading.Event()

    def script(posted, _):
        return Reply(b"", status=500) if user_text(posted) == "b" and not down.is_set() else GOOD

    with serve(script) as server:
        stopped = stop_of(server, tmp_path, ["a", "b", "c"], answer_via="tools")
        assert "1 row(s) got no answer" in str(stopped) and "run the same command" in str(stopped)
        down.set()
        asked = len(server.requests)
        run(server, tmp_path, ["a", "b", "c"], answer_via="tools")
    assert len(server.requests) == asked + 1


def test_no_server_and_no_url(tmp_path):
    with serve(lambda *_: GOOD) as server:
        pass
    assert "cannot connect to" in str(stop_of(server, tmp_path, ["a"]))
    server.url = "localhost:8080"
    with pytest.raises(UserError, match="teacher.base_url: found 'localhost:8080'"):
        run(server, tmp_path, ["a"])


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch, capfd):
    secret = "sk-5ecret-0f-the-user"
    monkeypatch.setenv("SUPERTINY_TEACHER_KEY", secret)

    def script(posted, count):
        return Reply(b"who?", status=401) if user_text(posted) == "b" else GOOD

    with serve(script) as server:
        stopped = stop_of(server, tmp_path, ["a", "b"])
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    out = capfd.readouterr()
    everything = [str(stopped), out.out, out.err, (tmp_path / "rows.jsonl").read_text()]
    assert not any(secret in text for text in everything)
    assert secret not in json.dumps(server.requests)


def test_sigint_finishes_what_is_in_flight_and_keeps_it(tmp_path):
    once = threading.Lock()

    def script(posted, _):
        if len(server.requests) >= 6 and once.acquire(blocking=False):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        return Reply(GOOD.body, delay=0.4 if len(server.requests) > 3 else 0)

    with serve(script) as server:
        texts = [str(n) for n in range(40)]
        stopped = stop_of(server, tmp_path, texts, concurrency=3)
        assert stopped.code == 130 and "interrupted" in str(stopped)
        kept = RowStore(tmp_path / "rows.jsonl")
        # Every request that was made came to its end and is kept; none was begun after the signal.
        assert len(kept) == len(server.requests) < 40
        server.script = lambda *_: GOOD
        run(server, tmp_path, texts)
    assert len(server.requests) == 40


def test_sigint_does_not_wait_for_a_limit(tmp_path):
    def script(posted, _):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        return GOOD

    with serve(script) as server:
        started = time.monotonic()
        stopped = stop_of(server, tmp_path, ["a", "b"], requests_per_minute=1)
    assert stopped.code == 130 and time.monotonic() - started < 50
    assert len(RowStore(tmp_path / "rows.jsonl")) == 1


def test_max_calls_holds_and_the_next_run_goes_on(tmp_path):
    texts = [str(n) for n in range(10)]
    with serve(lambda *_: GOOD) as server:
        stopped = stop_of(server, tmp_path, texts, max_calls=4)
        assert "max_calls: 4 calls are made" in str(stopped) and stopped.code == 3
        assert len(server.requests) == 4 == len(RowStore(tmp_path / "rows.jsonl"))
        run(server, tmp_path, texts)
    assert len(server.requests) == 10


def test_a_retry_is_a_call(tmp_path):
    with serve(lambda *_: Reply(b"", status=500)) as server:
        stop_of(server, tmp_path, ["a", "b"], max_calls=2, max_attempts=9, answer_via="tools")
    assert len(server.requests) == 2


def test_money_spent_is_what_the_server_counted_and_never_over_the_limit(tmp_path):
    dear = ok(completion({"text": "hello"}, tokens=20))
    texts = [f"{n:03}" for n in range(50)]
    prices = {"usd_per_million_prompt_tokens": 1000, "usd_per_million_answer_tokens": 10000}
    with serve(lambda *_: dear) as server:  # each call costs 0.1 + 0.2 USD
        stopped = stop_of(server, tmp_path, texts, max_usd=3.0, concurrency=4, **prices)
    assert "max_usd" in str(stopped)
    assert 5 <= len(server.requests) <= 10
