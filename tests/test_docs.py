"""The how-to pages: every command line is one that the program takes, every name in them exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from dvc.cli import parse_args as parse_dvc
from project import run
from tinygraph import DVC

from supertiny import cli

PAGES = sorted(Path("docs").glob("*.md"))
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
PARAMS = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
KEYS = {key for section in PARAMS.values() if isinstance(section, dict) for key in section}
# Code in the text that has the form of a key and is something else.
NO_KEYS = {
    "no_call",
    "machine_rank",  # of accelerate
    "main_process_ip",
    "run_stage",
    "access_key_id",
    "secret_access_key",
    "sas_token",
    "ask_teacher",
    "set_guidance",
}
MADE_BY_THE_READER = {
    "supertiny/params/probe.py", "supertiny/probe.py", "tests/test_probe.py", "stages/probe.py",
    "tasks/support", "conf/profile/support.yaml", "graphs/feedback",
}  # fmt: skip
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.M | re.S)


def lines(page: Path) -> list[list[str]]:
    """The words of each line in the page's blocks, and of each piece of code in its text."""
    blocks = "\n".join(FENCE.findall(TEXT[page])).splitlines()
    blocks += re.findall(r"^    (\S.*)$", FENCE.sub("", TEXT[page]), re.M)  # indented code
    found = [part.strip() for line in blocks for part in line.split("&&")]
    found += re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXT[page]))
    words = [line.split("#")[0].replace("'", "").replace('"', "").split() for line in found]
    return [[Path(line[0]).name, *line[1:]] for line in words if line]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_supertiny_takes_every_command_line(page):
    for name, *arguments in lines(page):
        if name == "supertiny" and arguments:
            if arguments == ["compare"]:  # spoken of without its arguments
                continue
            cli._parser().parse_args(arguments)  # a mistake exits with what is wrong


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_dvc_takes_every_command_line(page):
    for name, *arguments in lines(page):
        if name == "dvc":
            parse_dvc(arguments)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_make_target_and_stage_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.M))
    stages = set(yaml.safe_load(Path("dvc.yaml").read_text())["stages"]) | {"probe"}
    for name, *arguments in lines(page):
        if name == "make":
            assert arguments[0] in targets
        if name == "dvc" and arguments[0] in ("repro", "pull"):
            assert {word for word in arguments[1:] if not word.startswith("-")} <= stages


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_file_and_key_is_there(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT[page]):
        assert (page.parent / target).exists(), target
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXT[page])):
        if re.fullmatch(r"(supertiny|stages|tests|docs|conf|tasks)/[\w./-]+", code):
            assert code in MADE_BY_THE_READER or Path(code).exists(), code
        section, _, key = code.partition(".")
        if key and isinstance(PARAMS.get(section), dict) and re.fullmatch(r"[a-z_]+", key):
            assert key in PARAMS[section], code
        if re.fullmatch(r"[a-z]+(_[a-z]+)+", code):
            assert code in KEYS | NO_KEYS, code
        if match := re.fullmatch(r"([a-z_]+): [\w/.-]+", code):
            assert match[1] in KEYS | set(PARAMS) | {"cache"}, code


def test_the_remote_is_in_git_and_the_key_is_not(tmp_path):
    """The block of docs/remotes.md that sets up a remote, run as it stands."""
    block = next(
        block for block in FENCE.findall(TEXT[Path("docs/remotes.md")]) if "remote add" in block
    )
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, DVC, "init", "-q")
    for line in block.splitlines():
        if line.startswith("dvc "):
            run(tmp_path, DVC, *shlex.split(line, comments=True)[1:])
    config = (tmp_path / ".dvc" / "config").read_text()
    assert "url = s3://bucket/folder" in config
    assert "verify = true" in config
    assert "access_key_id" not in config
    assert "access_key_id" in (tmp_path / ".dvc" / "config.local").read_text()
    assert run(tmp_path, "git", "check-ignore", ".dvc/config.local").stdout
