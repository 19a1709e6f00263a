"""A bound that is broken stops the graph, and says which, by how much and where to look."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, make_project

from supertiny.gate import Check, flat, measure, table
from supertiny.params.gate import Gate

PARAMS = Gate(
    enforce=True,
    min_greedy_identity=1.0,
    max_int8_exact_match_lost=0.01,
    max_int8_kl=0.02,
    max_int4_exact_match_lost=0.015,
    max_int4_kl=0.1,
    rarest_tools=2,
    min_rarest_exact_match=0.6,
)
VARIANTS = ("int8", "int4")
TOOLS = "tool\tn\texact_match\nOn\t900\t0.9\nMow\t10\t0.5\nDock\t30\t0.7\n"


def write(folder: Path, **changes):
    """Metric files that keep every bound but for the changes: file stem to values."""
    files = {
        "prepare": {"leak_test_names": 0, "leak_dev_templates": 0, "test_rows": 900},
        "export": {"greedy_identical": 100, "parity_rows": 100},
        "eval/home/fp32": {"exact_match": 0.95},
        "eval/home/int8": {"exact_match": 0.94},
        "eval/home/int4": {"exact_match": 0.935},
        "divergence/int8": {"kl": 0.02},
        "divergence/int4": {"kl": 0.1},
    }
    for name, values in files.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**values, **changes.get(name, {})}))
    for variant in VARIANTS:
        (folder / f"eval/home/{variant}.tools.tsv").write_text(changes.get(variant, TOOLS))
    return folder


def broken(folder):
    return [c.name for c in measure(folder, "home", "fp32", VARIANTS, PARAMS) if not c.holds]


def test_bounds_that_are_just_kept(tmp_path):
    checks = measure(write(tmp_path), "home", "fp32", VARIANTS, PARAMS)
    assert [check.name for check in checks if not check.holds] == []
    assert len(checks) == 8 and flat(checks)["broken"] == 0
    assert flat(checks)["int8_rarest_tools_exact_match"] == pytest.approx((5 + 21) / 40)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"prepare": {"leak_test_names": 1}}, "leaks"),
        ({"export": {"greedy_identical": 99}}, "fp32_greedy_identity"),
        ({"eval/home/int8": {"exact_match": 0.9399}}, "int8_exact_match_lost"),
        ({"divergence/int8": {"kl": 0.0201}}, "int8_kl"),
        ({"int8": TOOLS.replace("0.7", "0.6")}, "int8_rarest_tools_exact_match"),
        ({"eval/home/int4": {"exact_match": 0.9349}}, "int4_exact_match_lost"),
        ({"divergence/int4": {"kl": 0.101}}, "int4_kl"),
        ({"int4": TOOLS.replace("0.7", "0.6")}, "int4_rarest_tools_exact_match"),
    ],
)
def test_each_bound_is_seen_to_break(tmp_path, changes, name):
    assert broken(write(tmp_path, **changes)) == [name]


def test_a_better_quantized_model_is_no_loss(tmp_path):
    assert broken(write(tmp_path, **{"eval/home/int8": {"exact_match": 0.99}})) == []


def test_the_table_names_what_is_broken_first_and_where_to_look():
    checks = [Check("fine", 1, 2, True, "a.json"), Check("bad", 0.5, 0.6, False, "b.json")]
    lines = table(checks).splitlines()
    assert lines[1].split() == ["BROKEN", "bad", "0.5", "at", "least", "0.6", "b.json"]
    assert lines[2].startswith("ok")


@pytest.mark.parametrize(("enforce", "code"), [(True, 2), (False, 0)])
def test_the_stage_stops_only_where_it_is_told_to(tmp_path, enforce, code):
    project = make_project(tmp_path / "project")
    write(project / "metrics", export={"greedy_identical": 1})
    params = project / "params.yaml"
    text = params.read_text()
    assert "enforce: false" in text, "the smoke profile only reports"
    params.write_text(text.replace("enforce: false", f"enforce: {str(enforce).lower()}"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.gate", *VARIANTS],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "BROKEN  fp32_greedy_identity" in done.stdout
    assert "Traceback" not in done.stderr
    assert json.loads((project / "metrics/gate.json").read_text())["broken"] >= 1
