"""Profiles keep the comments of params.yaml, name what they change and refuse what does not exist."""

import shutil
from pathlib import Path

import pytest

from supertiny.errors import UserError
from supertiny.params import core
from supertiny.profile import PROFILES, apply_profile, profile_names


@pytest.fixture
def params(tmp_path):
    return Path(shutil.copyfile("params.yaml", tmp_path / "params.yaml"))


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_legal_and_documented(name, params):
    assert (PROFILES / f"{name}.yaml").read_text().startswith("# ")
    before = core.load_all(params)
    changes = apply_profile(name, params)
    assert changes and core.load_all(params) != before


def test_comments_and_untouched_values_stay(params):
    first = params.read_text().splitlines()[0]
    apply_profile("smoke", params)
    text = params.read_text()
    assert text.splitlines()[0] == first.strip() and first.startswith("#")
    assert "sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in text


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("sft:\n  epocs: 1\n", "sft.epocs: params.yaml has no such key"),
        ("sft:\n  epochs: -1\n", "sft.epochs: found -1"),
    ],
)
def test_a_wrong_profile_changes_nothing(params, tmp_path, profile, message):
    (tmp_path / "bad.yaml").write_text(profile)
    before = params.read_text()
    with pytest.raises(UserError, match=message):
        apply_profile("bad", params, tmp_path)
    assert params.read_text() == before


def test_an_unknown_profile_lists_the_known_ones(params):
    with pytest.raises(UserError, match="there are: .*smoke"):
        apply_profile("smok", params)
