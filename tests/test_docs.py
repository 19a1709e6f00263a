"""The how-to pages name only commands, files and links that exist."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest
from tinygraph import DVC

from supertiny import cli

PAGES = sorted(Path("docs").glob("*.md"))
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}


def commands(text, program):
    return set(re.findall(rf"(?m)(?:^|`){program} ([a-z]+)", text))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_supertiny_command_exists(page):
    actions = cli._parser()._actions
    known = next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))
    assert commands(TEXT[page], "supertiny") <= set(known)


def test_every_dvc_command_exists():
    help_text = subprocess.run([DVC, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^    ([a-z-]+) ", help_text, re.M))
    for page, text in TEXT.items():
        assert commands(text, "dvc") <= known, page


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_and_every_file_of_the_project_is_there(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT[page]):
        assert (page.parent / target).exists(), target
    made_by_the_reader = {"supertiny/params/probe.py", "supertiny/probe.py", "tests/test_probe.py"}
    made_by_the_reader |= {"stages/probe.py"}
    named = re.findall(r"`((?:supertiny|stages|tests|docs|conf)/[\w./-]+)`", TEXT[page])
    for name in set(named) - made_by_the_reader:
        assert Path(name).exists(), name
