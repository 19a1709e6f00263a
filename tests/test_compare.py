"""Two commits compared by the predictions that git and DVC keep of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from project import run
from tinygraph import DVC, clone, commit, copy_repository, make_repository, repro, set_param

from supertiny import cli, compare
from supertiny.errors import UserError

PREDICTIONS = "metrics/eval/lamps/int8.predictions.jsonl"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Commits tagged one, two (another skill: rows change sides) and more (a bigger test set)."""
    folder = make_repository(tmp_path_factory.mktemp("compare") / "repository")
    for tag, section, key, value in (
        ("one", "train", "skill", 1), ("two", "train", "skill", 2), ("more", "data", "rows", 24)
    ):  # fmt: skip
        set_param(folder, section, key, value)
        repro(folder)
        commit(folder, tag)
        run(folder, "git", "tag", tag)
    return folder


@pytest.fixture
def repository(history, tmp_path, monkeypatch):
    """A copy of the history, cache included; the working folder of the test."""
    folder = copy_repository(history, tmp_path / "repository")
    monkeypatch.chdir(folder)
    return folder


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def exact_match(repository, tag):
    name = f"{tag}:metrics/eval/lamps/int8.json"
    return json.loads(run(repository, "git", "show", name).stdout)["exact_match"]


def row(number, exact, query="on"):
    gold = {"name": "LightOn", "arguments": {}}
    return {"id": f"q{number}", "query": query, "gold": gold, "exact": exact, "predicted": None,
            "reason": None if exact else "unparsable"}  # fmt: skip


def test_rows_are_matched_by_id_in_any_order():
    first = [row(0, True), row(1, False), row(2, False), row(3, True)]
    second = [row(3, False), row(2, True), row(1, True), row(0, True)]
    result = compare.compare_rows(first, second)
    assert (result.n, result.left_out, result.exact) == (4, 0, (0.5, 0.75))
    assert result.difference[0] == 0.25
    assert [a["id"] for a, _ in result.won] == ["q1", "q2"]
    assert [b["id"] for _, b in result.lost] == ["q3"]


def test_the_interval_is_of_pairs_not_of_shares():
    """One row in a hundred differs: paired, that is nearly certain not to be 5 points."""
    first = [row(i, i % 2 == 0) for i in range(100)]
    second = [row(i, i % 2 == 0 or i == 1) for i in range(100)]
    difference, low, high = compare.compare_rows(first, second).difference
    assert difference == pytest.approx(0.01)
    assert low == 0.0
    assert 0.01 < high <= 0.04


def test_a_row_that_asks_for_something_else_is_left_out_and_counted():
    result = compare.compare_rows(
        [row(0, True), row(1, True)], [row(0, True), row(1, False, "off")]
    )
    assert (result.n, result.left_out, result.lost) == (1, 2, [])
    text = compare.render(result, ("a", "b"), "int8", 5)
    assert "2 rows left out" in text
    assert "The interval holds 0" in text


def test_nothing_in_common_is_an_error():
    with pytest.raises(UserError, match="no test row is the same in both"):
        compare.compare_rows([row(0, True)], [row(1, True)])


def test_two_commits_give_the_difference_that_their_metrics_give(capsys, repository):
    code, out, _ = command(capsys, "one", "two", "--json")
    found = json.loads(out)
    before, after = (exact_match(repository, tag) for tag in ("one", "two"))
    assert code == 0
    assert found["difference"] == pytest.approx(after - before)
    assert (found["exact_match_first"], found["exact_match_second"]) == (before, after)
    assert found["n"] == 20
    # Skill s is wrong at query i where (i + s) % (3 + s) == 0: work.py.
    assert found["won"] == ["q07", "q11", "q15", "q19"]
    assert found["lost"] == ["q08", "q13", "q18"]
    assert found["difference_low"] < 0 < found["difference_high"]


def test_the_text_shows_the_inputs_and_stops_at_the_limit(capsys, repository):
    code, out, _ = command(capsys, "one", "two", "--variant", "sft", "--limit", "2")
    assert code == 0
    assert "sft, exact match on 20 test rows" in out
    assert "won: 4" in out
    assert "and 2 more (--limit)" in out
    assert "and 1 more (--limit)" in out
    assert 'expected {"arguments": {"brightness": 7}, "name": "Dim"}' in out
    assert "wrong    no legal call (unparsable)" in out


def test_a_bigger_test_set_is_compared_where_it_is_the_same(capsys, repository):
    found = json.loads(command(capsys, "two", "more", "--json")[1])
    assert (found["n"], found["left_out"], found["won"], found["lost"]) == (20, 4, [], [])


def test_the_workspace_is_what_was_run_but_not_committed(capsys, repository):
    set_param(repository, "train", "skill", 3)
    repro(repository)
    found = json.loads(command(capsys, "HEAD", "workspace", "--json")[1])
    assert found["n"] == 24
    assert (len(found["won"]), len(found["lost"])) == (4, 3)


def test_an_experiment_is_compared_by_its_name(capsys, repository):
    run(repository, DVC, "exp", "run", "--name", "wiser", "--set-param", "train.skill=2")
    run(repository, "git", "stash")
    found = json.loads(command(capsys, "more", "wiser", "--json")[1])
    assert found["n"] == 24 and (found["won"], found["lost"]) == ([], [])
    assert json.loads(command(capsys, "one", "wiser", "--json")[1])["won"]


def test_the_variant_that_ships_is_compared_unless_another_is_named(capsys, repository):
    assert "int8, exact match" in command(capsys, "one", "two")[1]
    set_param(repository, "bundle", "variant", "sft")
    assert "sft, exact match" in command(capsys, "one", "workspace")[1]


def test_predictions_that_are_not_here_are_pulled(capsys, repository, tmp_path, monkeypatch):
    run(repository, DVC, "remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(repository, "remote")
    for tag in ("one", "two"):  # as each was pushed by whoever made it
        run(repository, "git", "checkout", "-q", tag, "--", "dvc.lock", "params.yaml")
        run(repository, DVC, "checkout", "-q")
        run(repository, DVC, "push")
    expected = json.loads(command(capsys, "one", "two", "--json")[1])
    copy = clone(repository, tmp_path / "clone")
    monkeypatch.chdir(copy)
    assert json.loads(command(capsys, "one", "two", "--json")[1]) == expected
    assert not Path(PREDICTIONS).exists()


def cached(repository, tag):
    text = run(repository, "git", "show", f"{tag}:dvc.lock").stdout
    outs = yaml.safe_load(text)["stages"]["evaluate@int8"]["outs"]
    digest = next(out["md5"] for out in outs if out["path"] == PREDICTIONS)
    return repository / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


def test_what_is_neither_here_nor_in_the_remote_is_an_error_with_a_next_step(
    capsys, repository, tmp_path
):
    run(repository, DVC, "remote", "add", "-d", "store", str(tmp_path / "store"))
    file = cached(repository, "one")
    file.unlink()
    code, out, err = command(capsys, "one", "two")
    assert (code, out) == (2, "")
    assert f"{PREDICTIONS} of one" in err
    assert "cannot be pulled" in err
    assert "`dvc push` where that commit was made" in err


def test_a_changed_byte_in_the_cache_is_refused(capsys, repository):
    file = cached(repository, "one")
    file.chmod(0o644)
    file.write_text(file.read_text().replace("true", "false", 1))
    code, out, err = command(capsys, "one", "two")
    assert (code, out) == (2, "")
    assert "in the DVC cache, expected" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "two"), "nowhere: expected a git revision or experiment that has params.yaml"),
        (("one", "two", "--output=x"), "unrecognized arguments"),
        (("one", "two", "--variant", "int4"), "variants there: int8, sft"),
        (("one", "two", "--limit", "0"), "expected a whole number from 1"),
    ],
)
def test_mistakes_are_named(capsys, repository, arguments, message):
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
