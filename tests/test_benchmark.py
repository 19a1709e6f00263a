"""Benchmark: its arithmetic, its memory figure, and one real run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supertiny.benchmark import benchmark, summarise
from supertiny.errors import UserError
from supertiny.params.benchmark import Benchmark
from supertiny.runtime import Timing

PARAMS = Benchmark(("fp32",), queries=5, warmup=1, threads=1, max_new_tokens=8, usd_per_hour=3.6)
ROOT = Path(__file__).resolve().parent.parent


def test_figures_are_those_of_a_hand_calculation():
    timings = [Timing(10, 0.1, 4, 0.2, 0.4), Timing(20, 0.2, 0, 0.0, 0.2)]
    assert summarise(timings, usd_per_hour=3.6) == {
        "n": 2,
        "latency_p50_ms": 300.0,
        "latency_p95_ms": 390.0,
        "prefill_tokens_per_s": 100.0,
        "decode_tokens_per_s": 20.0,
        "usd_per_million_requests": 300.0,  # 0.3 s at 0.001 dollars a second
    }


def test_a_run_counts_every_token_and_gives_every_figure(tiny_onnx):
    found = benchmark(tiny_onnx, [f"dim it to {n}" for n in range(20)], PARAMS)
    assert found["n"] == 5
    assert found["threads"] == 1
    assert 0 < found["latency_p50_ms"] <= found["latency_p95_ms"]
    assert found["prefill_tokens_per_s"] > 0
    assert found["decode_tokens_per_s"] > 0
    assert found["peak_rss_mib"] > 30
    on_disk = sum(path.stat().st_size for path in tiny_onnx.rglob("*") if path.is_file())
    assert found["size_mb"] == pytest.approx(on_disk / 1e6, abs=0.06)


def test_no_inputs_is_a_users_mistake(tiny_onnx):
    with pytest.raises(UserError, match="dvc repro prepare"):
        benchmark(tiny_onnx, [], PARAMS)


def test_peak_memory_is_of_this_process_and_not_of_its_parent():
    child = "from supertiny.benchmark import peak_rss_mib; print(peak_rss_mib())"
    parent = (
        "import subprocess, sys\n"
        "block = b'x' * (600 * 2**20)\n"
        f"done = subprocess.run([sys.executable, '-c', {child!r}], capture_output=True)\n"
        "print(done.stdout.decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 10 < float(done.stdout) < 400
