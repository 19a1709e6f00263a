"""Rows a second of the teacher's row store: appended, read from the live file, read from gzip.

Limits: one process, one disk, rows of a made-up conversation of about 4 KB as the step `call` has
them; the appended rows are not synced one by one.

    python benchmarks/store.py [ROWS]
"""

import sys
import tempfile
import time
from pathlib import Path

from supertiny.teacher.messages import Ask, Function, make_request
from supertiny.teacher.store import RowStore, iter_live, write_recording

FUNCTION = Function("call", "The call that was meant.", {"type": "object"})
SYSTEM = "turn on(area?: string, name?: string)  Turns on a device or entity\n" * 50


def asks(count: int) -> list[Ask]:
    made = []
    for number in range(count):
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"Question {number}: dim the kitchen lights to 30"},
        ]
        request = make_request(
            "model", messages, FUNCTION, temperature=0.0, top_p=1.0, max_tokens=64
        )
        made.append(Ask(request, 0))
    return made


def response(number: int) -> dict:
    message = {"role": "assistant", "content": f'{{"tool": "turn on", "arguments": {number}}}'}
    usage = {"prompt_tokens": 900, "completion_tokens": 20}
    return {"choices": [{"finish_reason": "stop", "index": 0, "message": message}], "usage": usage}


class Timer:
    """Prints rows per second of the clock, and of CPU time for a machine that has other work."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def report(self, name: str, count: int) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        print(f"{name}: {count / wall:,.0f} rows/s, {count / cpu:,.0f} per CPU second")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        live, packed = Path(folder) / "rows.jsonl", Path(folder) / "rows.jsonl.gz"
        questions = asks(count)
        store = RowStore(live)
        timer = Timer()
        for number, ask in enumerate(questions):
            store.add(ask, response(number))
        store.close()
        timer.report("append", count)
        timer = Timer()
        assert len(RowStore(live)) == count
        timer.report("read", count)
        write_recording(packed, iter_live(live, []))
        timer = Timer()
        assert len(RowStore(None, [packed])) == count
        timer.report("read gzip", count)
        sizes = [path.stat().st_size / 2**20 for path in (live, packed)]
        print(f"size: {sizes[0]:.1f} MiB live, {sizes[1]:.2f} MiB gzip")


if __name__ == "__main__":
    main()
