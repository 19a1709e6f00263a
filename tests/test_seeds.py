"""Finished rows: whole clusters go to a split, every stratum has its share, bad seeds are all named."""

import json
from collections import defaultdict

import pytest

from supertiny.errors import UserError
from supertiny.params.prepare import Prepare
from supertiny.seeds import Rows, cluster_names, load, read_seeds, split_clusters

CALL = {"name": "LightOn", "arguments": {}}
PARAMS = Prepare(
    seed=1, train_rows=50, dev_rows=50, test_rows=50, tool_balance=0.5, no_call_share=0.1,
    natural_share=0.5, natural_test_share=0.1, everyday_share=0.3, invented_share=0.0,
    number_words_share=0.35, languages=("en",),
    noise_share=0.2, noise_test_share=0.1, held_out_share=0.2, max_prompt_bytes=0,
    max_similarity=0.8,
)  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_no_cluster_is_in_two_splits_and_every_row_is_in_one():
    clusters = [f"document {n % 40}" for n in range(400)]
    rows = [{"query": str(n), "call": CALL, "cluster": name} for n, name in enumerate(clusters)]
    source = Rows(rows, clusters, ["all"] * 400, PARAMS)
    splits = {split: list(source.stream(split)) for split in ("test", "dev", "train")}
    seen = [{row["cluster"] for row in rows} for rows in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 40
    assert [len(rows) for rows in splits.values()] == [80, 40, 280]
    assert sorted(int(row["query"]) for rows in splits.values() for row in rows) == [*range(400)]


def test_each_stratum_has_its_share_and_a_small_one_is_for_train():
    sizes = {"many": 20, "four": 4, "three": 3, "two": 2}
    clusters = [f"{stratum} {n}" for stratum, size in sizes.items() for n in range(size)]
    found = split_clusters(clusters, [name.split()[0] for name in clusters], 0.2, seed=1)
    counts = defaultdict(lambda: defaultdict(int))
    for cluster, split in found.items():
        counts[cluster.split()[0]][split] += 1
    assert counts == {
        "many": {"test": 4, "dev": 2, "train": 14}, "four": {"test": 1, "dev": 1, "train": 2},
        "three": {"test": 1, "train": 2}, "two": {"train": 2},
    }  # fmt: skip


def test_another_seed_holds_out_other_clusters():
    names = [str(n) for n in range(100)]
    splits = [split_clusters(names, ["all"] * 100, 0.2, seed) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_seeds_alike_hang_together_also_through_others_and_by_name():
    queries = [
        "lamp on in the hall please", "please lamp on in the hall now", "now the hall please",
        "track 7", "who won",
    ]  # fmt: skip
    seeds = [{"query": query, "call": CALL} for query in queries]
    names = cluster_names(seeds)
    assert names[0] == names[1] == names[2] and len(set(names)) == 3
    seeds[3]["cluster"] = seeds[4]["cluster"] = "same person"
    names = cluster_names(seeds)
    assert names[3] == names[4] != names[0]


def test_seeds_alike_are_loaded_into_one_split(tmp_path):
    pairs = [(f"where is parcel {n}", f"parcel {n} is where") for n in "abcdefghijkl"]
    seeds = [{"query": q, "call": CALL, "cluster": pair[0]} for pair in pairs for q in pair]
    source = load(write(tmp_path / "a.jsonl", {"query": "stop", "call": CALL}, *seeds), PARAMS)
    with pytest.raises(UserError):  # all are like the next: one cluster, beside "stop"
        next(source.stream("test"))
    pairs = [(f"{n}{n} {n}", f"{n} {n}{n} please") for n in "abcdefghijkl"]
    seeds = [{"query": q, "call": CALL} for pair in pairs for q in pair]
    source = load(write(tmp_path / "b.jsonl", *seeds), PARAMS)
    found = [{row["query"][0] for row in source.stream(s)} for s in ("test", "dev", "train")]
    assert [len(letters) for letters in found] == [2, 1, 9]
    assert len(set.union(*found)) == 12


def test_a_seed_of_several_turns_is_a_row_of_its_text(tmp_path):
    tool = {"name": "Track", "alias": "track", "description": "d", "parameters": {"type": "object",
            "properties": {"order": {"type": "string"}}, "additionalProperties": False}}  # fmt: skip
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    turns = [
        {"role": "user", "content": "where is K-1"},
        {"role": "assistant", "call": {"name": "Track", "arguments": {"order": "K-1"}}},
        {"role": "user", "content": "and K-2"},
    ]
    seed = {"messages": turns, "call": {"name": "Track", "arguments": {"order": "K-2"}}}
    path = write(tmp_path / "seeds.jsonl", {**seed, "slices": ["b"]}, {**seed, "query": "x"},
                 {**seed, "messages": turns[:2]})  # fmt: skip
    found, problems = read_seeds(path)
    assert [row["query"] for row in found] == ["where is K-1 => track order K-1 => and K-2"]
    assert found[0]["slices"] == ["b", "conversation"]
    assert "either query or messages" in problems[0] and "the last one" in problems[1]


def test_a_split_without_rows_and_one_with_too_few_are_told(tmp_path, capsys):
    path = write(tmp_path / "seeds.jsonl", *({"query": q, "call": CALL} for q in ("a", "b", "c")))
    source = load(path, PARAMS)
    with pytest.raises(UserError, match="dev: no row"):
        next(source.stream("dev"))
    assert len(list(source.stream("train"))) == 2
    assert "train: 2 rows at most, prepare.train_rows asks for 50" in capsys.readouterr().out


def test_every_bad_line_is_named_at_once(tmp_path):
    path = write(
        tmp_path / "seeds.jsonl",
        {"query": "on", "call": CALL},
        {"query": "on"},
        {"query": " ", "call": CALL},
        {"query": "on", "call": {"name": "LightOn"}},
        {"query": "on", "call": CALL, "slices": [3]},
        {"query": "on", "call": CALL, "colour": "red"},
        {"query": 3, "call": CALL},
    )
    with pytest.raises(UserError, match="6 problem") as caught:
        load(path, PARAMS)
    for number in range(2, 8):
        assert f"line {number}: " in str(caught.value)
    assert len(read_seeds(path)[0]) == 1


def test_a_missing_and_an_empty_file_are_problems(tmp_path):
    assert "file not found" in read_seeds(tmp_path / "seeds.jsonl")[1][0]
    assert read_seeds(write(tmp_path / "seeds.jsonl")) == ([], ["no seeds; expected one a line"])
