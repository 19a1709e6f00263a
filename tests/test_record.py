"""Recording against a real local server: killed, edited, replayed."""

import dataclasses
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from llmserver import completion, ok, serve
from project import environment, make_project, run, run_stage

from supertiny.io import write_json
from supertiny.params import core
from supertiny.params.teacher import Teacher
from supertiny.teacher.backends.openai import body
from supertiny.teacher.messages import Ask
from supertiny.teacher.run import CARD, speed

CONCURRENCY = 3
RECORD = (sys.executable, "-m", "supertiny.cli", "record", "--backend", "openai")
COMMANDS = [
    ("open the {} blinds", "HassTurnOn", {"name": "{} blinds"}),
    ("shut off the {} fan", "HassTurnOff", {"name": "{} fan"}),
    ("set the {} lamp to 40 percent", "HassLightSet", {"name": "{} lamp", "brightness": 40}),
    ("pause the {} timer", "HassPauseTimer", {"name": "{} timer"}),
]
WORDS = ("fern", "opal", "tansy", "quill", "birch", "onyx", "clover", "maple")


def query_rows(words):
    rows = []
    for word in words:
        for command, tool, arguments in COMMANDS:
            query = command.format(word)
            filled = {k: v.format(word) if isinstance(v, str) else v for k, v in arguments.items()}
            rows.append({
                "id": query, "query": query, "call": {"name": tool, "arguments": filled},
                "source": "template", "template": "", "names": [], "slices": ["clean"],
            })  # fmt: skip
    return rows


def script(posted, _count):
    function = posted["tools"][0]["function"]["name"]
    said = posted["messages"][1]["content"]
    if function == "say":
        style = posted["messages"][0]["content"].split("Style: ")[1].split(".")[0].replace("_", " ")
        command = said.split("Command: ")[-1].split("\n")[0]
        return ok(completion({"text": f"{command} {style} and thanks"}), delay=0.01)
    if function == "call":
        return ok(completion({"tool": "no_call", "arguments": {}}), delay=0.01)
    return ok(completion({"reason": "fine", "faithful": 5, "natural": 5}), delay=0.01)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("record") / "project")
    shutil.rmtree(folder / "data" / "recordings")
    queries = folder / "data" / "queries"
    queries.mkdir(parents=True)
    for split, words in (("train", WORDS[:4]), ("dev", WORDS[4:6]), ("test", WORDS[6:])):
        lines = [json.dumps(row) + "\n" for row in query_rows(words)]
        (queries / f"{split}.jsonl").write_text("".join(lines))
    with serve(script) as server:
        set_teacher(folder, base_url=server.url, concurrency=CONCURRENCY, answer_via="tools")
        yield folder, server


def set_teacher(folder, **values):
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["teacher"] |= {"train_rows": 16, "dev_rows": 8, "test_rows": 8, "styles": []}
    params["teacher"] |= {"backend": "replay", "verify": "all", "dev_styles_per_row": 3, **values}
    path.write_text(yaml.safe_dump(params))


def live_asks(folder):
    """What another reader finds in the live file: the whole lines of it."""
    path = folder / ".supertiny" / "teacher" / "home" / "rows.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [Ask(row["request"], row["sample"]) for row in rows]


def posted_form(asks):
    return {json.dumps(body(ask, tools=True), sort_keys=True) for ask in asks}


def expected_requests():
    rewrites = (16 + 8 + 8) * 3
    return rewrites + (16 + 8) * 3 * 2 + 8  # calls and grades but for test, and the test answers


def test_kill_9_at_random_moments_loses_no_finished_row_and_repeats_none(project):
    folder, server = project
    rng = random.Random(7)
    finished: set[str] = set()
    for _ in range(10):
        begun = len(server.requests)
        wanted = begun + rng.randrange(2, 14)
        process = subprocess.Popen(
            RECORD,
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(server.requests) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        while server.busy:
            time.sleep(0.01)
        asked_again = {json.dumps(p, sort_keys=True) for p in server.requests[begun:]} & finished
        assert not asked_again
        now = posted_form(live_asks(folder))
        assert finished <= now, "a finished row was lost"
        finished = now
    run(folder, *RECORD)
    # What is asked twice can only be what was in flight when the process was killed.
    repeated = sum(server.counts.values()) - len(server.counts)
    assert repeated <= 10 * CONCURRENCY
    assert len(server.counts) == expected_requests()
    asks = live_asks(folder)
    assert len(asks) == len({ask.key for ask in asks}) == expected_requests()


def test_what_is_recorded_is_replayed_twice_alike_without_a_network(project):
    folder, _ = project
    (folder / "no_network.py").write_text(
        "import runpy, socket, sys\n"
        "def refuse(*_, **__):\n    raise AssertionError('a network call')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n"
        "sys.argv = ['stages/teacher.py']\n"
        "runpy.run_module('stages.teacher', run_name='__main__')\n"
    )
    # A clean clone has the recording and not the live rows.
    (folder / ".supertiny" / "teacher").rename(folder / "aside")
    outs = []
    for _ in range(2):
        run(folder, sys.executable, "no_network.py")
        out = folder / "data" / "teacher"
        outs.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
        for path in out.iterdir():
            path.unlink()
    (folder / "aside").rename(folder / ".supertiny" / "teacher")
    assert outs[0] == outs[1] and set(outs[0]) == {
        "train.jsonl", "dev.jsonl", "test.jsonl", "answers.jsonl",
    }  # fmt: skip
    assert outs[0]["train.jsonl"].count(b'"candidate"') == 48
    card = json.loads((folder / "data/recordings/home/card.json").read_text())
    assert card["answers"] == expected_requests() and card["failures"] == 0


def edited(folder, old, new):
    path = folder / "tasks" / "home" / "teacher.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_missing_answer_stops_with_the_count_the_keys_and_the_command(project):
    folder, _ = project
    edited(folder, "natural: 5 if a person", "natural: 5 if anybody")
    done = run_stage(folder, "teacher", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "48 answer(s) of the teacher are not recorded (first keys: " in done.stderr
    assert "supertiny record --backend openai" in done.stderr
    edited(folder, "natural: 5 if anybody", "natural: 5 if a person")


@pytest.mark.parametrize(
    ("old", "new", "step", "count"),
    [
        ("natural: 5 if a person would", "natural: 5 if anyone would", "grade", 72),
        ("give numbers as numbers", "write numbers as numbers", "call", 72 + 8),
    ],
)
def test_an_edited_line_asks_the_rows_of_its_step_and_no_other(project, old, new, step, count):
    folder, server = project
    begun = len(server.requests)
    edited(folder, old, new)
    run(folder, *RECORD)
    functions = [posted["tools"][0]["function"]["name"] for posted in server.requests[begun:]]
    assert functions == [step] * count
    run_stage(folder, "teacher")


def test_sigint_exits_130_with_a_sentence_and_keeps_what_it_has(project):
    folder, server = project
    edited(folder, "You compare two sentences", "You compare the two sentences")
    begun = len(server.requests)
    process = subprocess.Popen(
        RECORD,
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while len(server.requests) < begun + 5 and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted. Every finished answer is kept: run the same command again" in errors
    stopped = len(server.requests)
    kept, before = recorded(folder), expected_requests()
    assert before < len(kept) and len(kept) <= before + stopped - begun
    run(folder, *RECORD)
    assert len(server.requests) - begun == 72 and stopped - begun < 72


def recorded(folder):
    path = folder / "data" / "recordings" / "home" / "rows.jsonl.gz"
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_calls_are_timed_one_at_a_time_and_not_kept(project):
    folder, server = project
    begun, kept = len(server.requests), recorded(folder)
    run(folder, *RECORD, "--time", "2")
    assert len(server.requests) == begun + 2 and recorded(folder) == kept
    card = json.loads((folder / "data/recordings/home/card.json").read_text())
    assert len(card["latency_ms"]) == 2 and min(card["latency_ms"]) >= 10  # the server's delay


def test_the_speed_is_that_of_the_recorded_model_or_nothing(tmp_path):
    recording, params = tmp_path / "rows.jsonl.gz", core.load(Teacher)
    params = dataclasses.replace(params, backend="replay")
    assert speed(params, recording, 3.6) == {}
    card = {"model": params.model, "latency_ms": [1000, 3000], "size_mb": 1117.3, "threads": 2}
    write_json(tmp_path / CARD, card)
    assert speed(params, recording, 3.6) == {
        "n": 2, "latency_p50_ms": 2000.0, "latency_p95_ms": 2900.0,
        "usd_per_million_requests": 2000.0, "size_mb": 1117.3, "threads": 2,
    }  # fmt: skip
    assert speed(dataclasses.replace(params, model="another"), recording, 3.6) == {}
    assert speed(dataclasses.replace(params, backend="made_up"), recording, 3.6) == {}
    write_json(tmp_path / CARD, {**card, "latency_ms": []})
    assert speed(params, recording, 3.6) == {}


def test_the_recording_holds_what_the_run_used_and_nothing_else(project):
    folder, _ = project
    rows = recorded(folder)
    assert len(rows) == expected_requests() < len(live_asks(folder))
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
