"""Stages of a project run as forks of one process, so that their imports are paid for once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from project import environment

# A fork runs the stage's script anew as __main__, then leaves without the parent's exit handlers.
SERVER = """
import json, os, runpy, sys, traceback
import onnx, onnxruntime_genai, peft, stages.benchmark, stages.evaluate, stages.export, stages.fetch
import stages.prepare, stages.quantize, stages.report, stages.sft, supertiny.student
import tasks.home.gold
def run(order):
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    stage, *arguments = order["stage"].split()
    sys.argv = ["stage", *arguments]
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        return exit.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = run(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a stage ended; a negative code is the signal that killed it."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class StageServer:
    """Runs the stages of one project folder; a context manager."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.seconds: dict[str, float] = {}  # of each stage's last run that nobody killed
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=folder, text=True,
            env={**environment(), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> StageServer:
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        stage: str,
        kill_after: float | None = None,
        kill_when: Callable[[], bool] | None = None,
    ) -> Done:
        """Run a stage such as ``evaluate int8``, and kill -9 it and what it started if so asked.

        Args:
            kill_after: so many seconds after it started.
            kill_when: as soon as this is true.
        """
        files = {name: str(self.scratch / name) for name in ("stdout", "stderr")}
        started = time.monotonic()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"stage": stage, **files}) + "\n")
        self._process.stdin.flush()
        child = int(self._read())
        if kill_after is not None:
            time.sleep(kill_after)
            self._kill(child)
        if kill_when is not None:
            while not kill_when():
                assert time.monotonic() < started + 240, f"{stage}: the moment to kill never came"
                time.sleep(0.02)
            self._kill(child)
        code = int(self._read())
        texts = (Path(files[name]).read_text(errors="replace") for name in files)
        seconds = time.monotonic() - started
        if code >= 0:
            self.seconds[stage] = seconds
        return Done(code, *texts, seconds)

    def _kill(self, child: int) -> None:
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # it leads no group yet, or has ended already
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
