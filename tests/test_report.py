"""The report: every variant in it, nothing else in it, and the same bytes every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LESSONS

from supertiny.errors import UserError
from supertiny.evaluate import Outputs, write_absent, write_results
from supertiny.io import read_json, write_json, write_jsonl, write_tsv
from supertiny.metrics import TOOL_COLUMNS
from supertiny.params.report import Report
from supertiny.report import (
    Variant,
    check_same_rows,
    examples_table,
    flatten,
    headline,
    results_table,
    steps_table,
    table,
    tools_table,
)

REPOSITORY = Path.cwd()
ROWS = [
    {
        "id": f"q{i:02d}",
        "source": "template" if i % 3 else "natural",
        "template": "",
        "slices": ["even" if i % 2 == 0 else "odd"],
        "query": LESSONS[i % len(LESSONS)]["query"].lower(),
        "call": LESSONS[i % len(LESSONS)]["call"],
    }
    for i in range(30)
]
BENCH = {
    "size_mb": 123.4, "latency_p50_ms": 31.2, "latency_p95_ms": 44.9, "threads": 2,
    "usd_per_million_requests": 0.871, "peak_rss_mib": 400.0,
}  # fmt: skip
PARAMS = Report(examples=20, bootstrap_rounds=500, seed=1)


def answers(lamps, right):
    """Gold answers for the first ``right`` rows, then a wrong value or no legal call."""
    from supertiny.calls import call_from_json

    gold = [lamps.render_call(call_from_json(row["call"])) for row in ROWS]
    wrong = [" dim\n brightness 77" if i % 2 else "?|<b>" for i in range(len(ROWS))]
    return gold[:right] + wrong[right:]


@pytest.fixture
def project(tmp_path, lamps):
    """A checkout with the task, the results of three variants, and one that was dropped."""
    folder = tmp_path / "tasks" / "lamps"
    folder.mkdir(parents=True)
    for name in ("task.yaml", "tools.json"):
        (folder / name).write_text((lamps.folder / name).read_text())
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["task"] = "lamps"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for split in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"data/queries/{split}.jsonl", ROWS)
    for name, right in (("rules", 9), ("sft", 25), ("int8", 22), ("dropped", 30)):
        write_results(lamps, ROWS, answers(lamps, right), files(tmp_path, name))
    write_json(tmp_path / "metrics/bench/int8.json", BENCH)
    write_json(tmp_path / "metrics/bench/sft.json", BENCH | {"size_mb": 777.0})
    write_json(tmp_path / "metrics/prepare.json", {"leak_test_queries": 0})
    write_json(tmp_path / "metrics/export.json", {"max_logit_difference": 0.00013})
    write_json(tmp_path / "metrics/quantize/int8.json", {"kl": {"mean": 0.004}})
    write_jsonl(tmp_path / "data/curated/train.jsonl", [*ROWS, {**ROWS[0], "source": "llm"}])
    for name in ("test.rewrites", "train.rewrites", "train.rejected"):
        write_jsonl(tmp_path / f"data/curated/{name}.jsonl", [])
    counts = {f"{split}_funnel_asked": 0 for split in ("train", "dev")}
    write_json(tmp_path / "metrics/curate.json", counts)
    write_json(tmp_path / "metrics/train/gold.json", {"parameters": 134_500_000})
    write_json(tmp_path / "metrics/train/sft.json", {"final_loss": 0.02})
    write_json(tmp_path / "metrics/prune.json", {"parameters": 87_400_000})
    for name in ("rl", "logits", "distill"):
        write_json(tmp_path / f"metrics/train/{name}.json", {f"of_{name}": 1})
    curve = [[step, 5 / step, 4 / step] for step in range(1, 40)]
    write_tsv(tmp_path / "metrics/train/gold_loss.tsv", ["step", "loss", "unseen_loss"], curve)
    write_json(tmp_path / "metrics/gate.json", {"broken": 0})
    (tmp_path / "constraints.txt").write_text("# exact versions\nsome-package==1.2.3\n")
    origin = {"package": "some==1", "licence": "apache-2.0"}
    write_json(tmp_path / "models/base/SOURCE.json", origin)
    write_json(tmp_path / "models/bundle/lineage.json", {"inputs": {"train_queries": "ef" * 32}})
    (tmp_path / "models/bundle/SHA256SUMS").write_text(f"{'cd' * 32}  model.onnx\n")
    return tmp_path


def files(project, name):
    return Outputs.of(name, project / "metrics/eval/lamps", project / "reports/plots/lamps")


def run_stage(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "stages.report", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


ARGUMENTS = ("rules", "sft", "int8", "--bench", "int8", "--quantized", "int8")


def test_the_stage_writes_a_canonical_report_of_the_named_variants_only(project):
    contents = []
    for _ in range(2):
        done = run_stage(project, *ARGUMENTS)
        assert done.returncode == 0, done.stderr
        names = ("report.html", "report.md", "results.md", "loss.png", "confusion.png")
        contents.append({name: (project / "reports" / name).read_bytes() for name in names})
    assert contents[0] == contents[1]
    page = contents[0]["report.md"].decode()
    for expected in (
        "| rules |", "| sft |", "| int8 |", "rules to sft", "sft to int8", "| even |", "123 MB",
        "0.87", "| leak\\_test\\_queries | 0 |", "| kl.mean | 0.004 |", "max\\_logit\\_difference",
        "some==1", "Apache-2.0", "of\\_distill", "loss.png", "confusion.png", "8 of 8 wrong answers",
    ):  # fmt: skip
        assert expected in page, expected
    assert contents[0]["results.md"].decode().strip() in page
    assert "dropped" not in page  # a metrics file lies there, the variant is not named
    assert "777" not in page  # a benchmark lies there, it is not named
    assert str(project) not in page
    assert all(len(contents[0][name]) < 100_000 for name in ("loss.png", "confusion.png"))


def test_what_is_learned_from_is_what_was_curated(project):
    assert run_stage(project, *ARGUMENTS).returncode == 0
    lines = (project / "reports/report.md").read_text().splitlines()
    assert "| llm | 1 | 0 | 0 |" in lines and "| all | 31 | 30 | 30 |" in lines


def test_the_teacher_is_what_it_is_held_against_and_a_task_without_one_leaves_it_out(
    project, lamps
):
    write_results(lamps, ROWS, answers(lamps, 12), files(project, "teacher"))
    write_json(project / "metrics/bench/teacher.json", {})  # nobody measured its speed
    arguments = ("rules", "teacher", *ARGUMENTS[1:], "--bench", "teacher", "int8")
    assert run_stage(project, *arguments).returncode == 0
    assert "; teacher does for 40.0%" in (project / "reports/report.md").read_text()
    (line,) = [x for x in (project / "reports/results.md").read_text().splitlines() if "teach" in x]
    assert line.endswith("| - | - | - |")
    write_absent(files(project, "teacher"))
    assert run_stage(project, *arguments).returncode == 0
    text = (project / "reports/report.md").read_text()
    assert "; rules does for 30.0%" in text and "| teacher |" not in text


def test_a_missing_result_is_a_user_error(project):
    done = run_stage(project, *ARGUMENTS[:3], "int4")
    assert done.returncode == 2
    assert "int4.json: file not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_results_on_different_rows_are_a_user_error(project, lamps):
    write_results(lamps, ROWS[1:], answers(lamps, 9)[1:], files(project, "sft"))
    done = run_stage(project, *ARGUMENTS)
    assert done.returncode == 2
    assert "different test rows (29 and 30)" in done.stderr


def variant(lamps, tmp_path, name, right, bench=None):
    out = Outputs.of(name, tmp_path, tmp_path)
    from supertiny.io import read_jsonl, read_tsv

    write_results(lamps, ROWS, answers(lamps, right), out)
    return Variant(
        name, read_json(out.metrics), read_jsonl(out.predictions), read_tsv(out.tools), bench
    )


def test_results_table_shows_measured_cost_or_a_dash(lamps, tmp_path):
    made = [variant(lamps, tmp_path, "a", 15), variant(lamps, tmp_path, "b", 30, BENCH)]
    lines = results_table(made).splitlines()
    assert lines[2].startswith("| a | 50.0% (33.2 to 66.8) |")
    assert lines[2].endswith("| - | - | - |")
    assert lines[3].endswith("| 123 | 31 / 45 | 0.87 |")
    served = {key: value for key, value in BENCH.items() if key not in ("size_mb", "threads")}
    (line,) = results_table([variant(lamps, tmp_path, "teacher", 15, served)]).splitlines()[2:]
    assert line.endswith("| - | 31 / 45 | 0.87 |")


def test_steps_count_what_was_fixed_and_broken(lamps, tmp_path):
    before, after = variant(lamps, tmp_path, "a", 9), variant(lamps, tmp_path, "b", 24)
    line = steps_table([before, after], PARAMS).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "a to b"
    assert cells[3:] == ["15", "0", "-", "-"]
    assert float(cells[1]) == pytest.approx(100 * 15 / 30, abs=0.05)
    assert steps_table([after, before], PARAMS).splitlines()[2].endswith("| 0 | 15 | - | - |")


def test_a_step_names_what_the_model_after_it_has(project):
    assert run_stage(project, *ARGUMENTS).returncode == 0
    lines = (project / "reports/report.md").read_text().splitlines()
    ends = {line.split("|")[1].strip(): line.split("|")[-3:-1] for line in lines if line[:1] == "|"}
    assert [cell.strip() for cell in ends["rules to sft"]] == ["134.5 M", "-"]
    assert [cell.strip() for cell in ends["sft to int8"]] == ["87.4 M", "123"]


def test_the_summary_has_every_variant_and_what_ships(project):
    assert run_stage(project, *ARGUMENTS).returncode == 0
    found = read_json(project / "metrics/summary.json")
    shares = {"rules": 9 / 30, "sft": 25 / 30, "int8": 22 / 30}
    for name, share in shares.items():
        assert found[f"{name}_exact_match"] == pytest.approx(share, abs=1e-5)
    assert found["shipped_size_mb"] == 123.4 and found["shipped_parameters"] == 87_400_000
    assert len(found) < 15


def test_headline_comes_from_the_last_variant(lamps, tmp_path):
    made = [variant(lamps, tmp_path, "a", 15), variant(lamps, tmp_path, "b", 30, BENCH)]
    text = headline(made)
    assert "30 held-out inputs, b gives exactly the right tool call for 100.0%" in text
    assert "a does for 50.0%" in text
    assert "31 ms (p50) on 2 CPU threads" in text


def test_tools_are_worst_first():
    lines = [["A", 3, 0.5, 0.1, 0.9, 1.0, 0.7], ["C", 3, 0.1, 0, 0.4, 1.0, 0.3]]
    lines.append(["B", 3, 0.1, 0, 0.4, 1.0, 0.3])
    rows = [dict(zip(TOOL_COLUMNS, map(str, line), strict=True)) for line in lines]
    text = tools_table(Variant("v", {}, [], rows, None))
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["B", "C", "A"]


def test_examples_are_spread_over_all_wrong_answers(lamps, tmp_path):
    made = variant(lamps, tmp_path, "a", 0)
    text = examples_table(made, 4)
    assert text.startswith("4 of ")
    assert len(text.splitlines()) == 2 + 2 + 4
    assert "Dim(" in text
    assert "LightOn(" in text


def test_variants_of_different_rows_are_refused(lamps, tmp_path):
    one, other = variant(lamps, tmp_path, "a", 3), variant(lamps, tmp_path, "b", 3)
    shorter = Variant("b", other.metrics, other.predictions[:-1], other.tools, None)
    with pytest.raises(UserError, match="different test rows"):
        check_same_rows([one, shorter])


def test_a_cell_cannot_break_the_table_or_smuggle_in_markup():
    line = table(["x"], [["a|b\n<img src=x> `c` [d](e)"]]).splitlines()
    assert len(line) == 3
    assert line[2] == "| a\\|b \\<img src=x> \\`c\\` \\[d](e) |"


def test_flatten_gives_sorted_dotted_keys():
    assert flatten({"b": {"d": 1, "c": [2]}, "a": None}) == [
        ["a", "None"], ["b.c", "[2]"], ["b.d", "1"]
    ]  # fmt: skip
