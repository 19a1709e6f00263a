"""The row store: content-addressed, append-only, whole after torn lines and under many writers."""

import gzip
import json
import subprocess
import sys

import pytest
from llmserver import completion, said
from teaching import SAY, ask

from supertiny.errors import UserError
from supertiny.teacher.messages import Ask, ask_key, make_request
from supertiny.teacher.store import RowStore, iter_live, write_recording


@pytest.fixture
def live(tmp_path):
    return tmp_path / "deep" / "rows.jsonl"


def filled(live, *texts):
    store = RowStore(live)
    for text in texts:
        store.add(ask(text), completion({"text": text}))
    store.close()
    return live


def test_a_row_comes_back_as_it_was_received(live):
    raw = {**completion({"text": "ü 🎉"}), "system_fingerprint": "x", "created": 1}
    store = RowStore(live)
    store.add(ask("a"), raw)
    store.close()
    assert RowStore(live).answer(ask("a").key) == raw
    assert RowStore(live).answer(ask("b").key) is None


def test_the_key_is_of_the_content_and_of_the_sample():
    request = ask("a").request
    shuffled = dict(reversed(list(request.items())))
    assert ask_key(request, 0) == ask_key(shuffled, 0) != ask_key(request, 1)
    keys = {ask_key({**request, **change}, 0) for change in (
        {}, {"model": "other"}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 21},
        {"messages": request["messages"][:1]}, {"function": {**request["function"], "name": "b"}},
    )}  # fmt: skip
    assert len(keys) == 7
    # The recording of today must be found by the code of tomorrow.
    expected = "6919bbfebdc8927d3590799b87277e60f42ec24a8a912f7d53e62e7407a43de8"
    assert ask_key({"b": 1, "a": "ü"}, 2) == expected


def test_an_integer_temperature_is_the_same_question():
    keys = {
        Ask(make_request("m", [], SAY, temperature=t, top_p=t, max_tokens=1), 0).key
        for t in (1, 1.0)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "response",
    [
        completion({"text": "abc"}, finish="length"),
        said("half a sen", finish="content_filter"),
        said("x", finish="error"),
        {"error": {"message": "overloaded"}},
        {"choices": []},
    ],
)
def test_what_is_no_answer_is_never_stored_as_one(live, response):
    store = RowStore(live)
    with pytest.raises(ValueError):
        store.add(ask("a"), response)
    assert store.answer(ask("a").key) is None and not live.exists()


def test_a_noted_failure_is_no_answer_and_a_later_answer_stands(live):
    store = RowStore(live)
    store.note_failure(ask("a"), "truncated")
    assert RowStore(live).answer(ask("a").key) is None
    assert RowStore(live).failure(ask("a").key) == "truncated"
    store.add(ask("a"), said("now"))
    assert RowStore(live).answer(ask("a").key) == said("now")


@pytest.mark.parametrize("lost", [1, 20, 150])
def test_a_torn_last_line_is_dropped_reported_and_recalled(live, lost):
    filled(live, "a", "b", "c")
    live.write_bytes(live.read_bytes()[:-lost])
    store = RowStore(live)
    assert [store.answer(ask(t).key) is not None for t in "abc"] == [True, True, False]
    assert "line 3: torn last line dropped" in store.problems[0]
    store.add(ask("c"), completion({"text": "c"}))
    assert "cut off a torn last line" in store.problems[-1]
    again = RowStore(live)
    assert len(again) == 3 and not again.problems


def test_a_file_that_is_one_torn_line_is_begun_anew(live):
    live.parent.mkdir()
    live.write_bytes(b'{"key": "' + b"x" * 200_000)
    store = RowStore(live)
    store.add(ask("a"), said("yes"))
    assert len(RowStore(live)) == 1 and not RowStore(live).problems


def test_a_changed_row_is_dropped_and_named(live):
    filled(live, "aaa", "bbb")
    live.write_bytes(live.read_bytes().replace(b'"content":"aaa"', b'"content":"aab"', 1))
    store = RowStore(live)
    assert len(store) == 1
    assert "line 1: the key is not the hash of the request" in store.problems[0]


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b"\n", b"nonsense\n", b'"a"\n', b"\xff\xfe\n"])
def test_a_line_that_is_no_row_is_dropped_and_named(live, line):
    filled(live, "a")
    live.write_bytes(line + live.read_bytes())
    store = RowStore(live)
    assert len(store) == 1 and "line 1: no row of a store" in store.problems[0]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from llmserver import said
from teaching import ask
from supertiny.teacher.store import RowStore
store = RowStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    store.add(ask(f"{sys.argv[2]} {number} " + "x" * 9000), said("y" * number * 31))
"""


def test_concurrent_writers_lose_and_tear_nothing(live):
    command = [sys.executable, "-c", WRITER, str(live)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(n), "300"], **pipes) for n in range(4)]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:  # all are loaded: now they write at the same time
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(200) for writer in writers] == [0] * 4
    store = RowStore(live)
    assert len(store) == 1200 and not store.problems
    for writer in writers:
        writer.stdin.close()
        writer.stdout.close()


def test_a_recording_is_the_same_bytes_for_the_same_rows(tmp_path, live):
    filled(live, "a", "b", "c", "a")
    other = filled(tmp_path / "other.jsonl", "c", "b", "a")
    paths = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"]
    for path, source in zip(paths, (live, other), strict=True):
        assert write_recording(path, iter_live(source, [])) == 3
    assert paths[0].read_bytes() == paths[1].read_bytes()
    store = RowStore(None, paths[:1])
    assert len(store) == 3 and store.answer(ask("b").key) == completion({"text": "b"})


def test_a_recording_holds_an_answer_rather_than_a_failure(tmp_path, live):
    store = RowStore(live)
    store.note_failure(ask("a"), "truncated")
    store.add(ask("a"), said("now"))
    store.note_failure(ask("b"), "filtered")
    path = tmp_path / "r.jsonl.gz"
    assert write_recording(path, iter_live(live, [])) == 2
    read = RowStore(None, [path])
    assert read.answer(ask("a").key) == said("now") and read.failure(ask("b").key) == "filtered"


def test_a_damaged_recording_is_a_users_error(tmp_path, live):
    path = tmp_path / "r.jsonl.gz"
    write_recording(path, iter_live(filled(live, *"abcdef"), []))
    whole = path.read_bytes()
    with pytest.raises(UserError, match="recording not found"):
        RowStore(None, [tmp_path / "none.jsonl.gz"])
    for damaged in (whole[:-20], whole[:30] + b"!!" + whole[32:], b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged recording|no row of a store"):
            RowStore(None, [path])
    rows = gzip.decompress(whole).replace(b'"sample":0', b'"sample":1', 1)
    path.write_bytes(gzip.compress(rows))
    with pytest.raises(UserError, match="line 1: the key is not the hash"):
        RowStore(None, [path])


def test_every_line_is_json_that_other_tools_can_read(live):
    for line in filled(live, "a", "b").read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"key", "request", "response", "sample"}
