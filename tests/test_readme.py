"""The README shows the table the report stage wrote, and names commands that exist."""

import re
from pathlib import Path

README = Path("README.md").read_text(encoding="utf-8")


def test_the_results_table_is_the_reports():
    between = README.split("<!-- results: reports/results.md -->")[1].split(
        "<!-- end of results -->"
    )[0]
    assert between.strip() == Path("reports/results.md").read_text(encoding="utf-8").strip()


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert Path(target).exists(), target


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.M)) <= targets
