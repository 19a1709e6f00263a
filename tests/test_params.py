"""params.yaml: each kind of mistake stops with the key, what was found and what is allowed."""

from pathlib import Path

import pytest
import yaml

from supertiny.errors import UserError
from supertiny.params import core
from supertiny.params.sft import Sft

COMMITTED = Path("params.yaml").read_text(encoding="utf-8")


def write(tmp_path, change):
    values = yaml.safe_load(COMMITTED)
    change(values)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def change(section, key, value):
    return lambda values: values[section].__setitem__(key, value)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            change("sft", "learnin_rate", 1),
            "sft.learnin_rate: unknown key; allowed here: accelerate_config, adam_beta2",
        ),
        (lambda v: v["sft"].pop("seed"), "sft.seed: missing"),
        (lambda v: v.__setitem__("stf", {}), "stf: unknown key; allowed here: "),
        (lambda v: v.pop("prepare"), "prepare: missing"),
        (change("sft", "epochs", "two"), "sft.epochs: found 'two', allowed: float"),
        (change("sft", "batch_size", 0), "sft.batch_size: found 0, allowed: int, at least 1"),
        (change("sft", "batch_size", True), "sft.batch_size: found True, allowed: int"),
        (change("sft", "batch_size", 1.5), "sft.batch_size: found 1.5, allowed: int"),
        (change("sft", "learning_rate", float("nan")), "sft.learning_rate: found nan"),
        (
            change("sft", "method", "qlora"),
            "sft.method: found 'qlora', allowed: str, one of full, lora",
        ),
        (change("prepare", "tool_balance", 1.2), "prepare.tool_balance: found 1.2"),
        (lambda v: v.__setitem__("sft", 3), "sft: found 3, expected a mapping"),
        (lambda v: v.__setitem__("task", 3), "task: found 3"),
    ],
)
def test_a_mistake_is_named(tmp_path, mistake, message):
    with pytest.raises(UserError) as caught:
        core.load(Sft, write(tmp_path, mistake))
    assert message in str(caught.value)


def test_all_mistakes_are_listed_at_once(tmp_path):
    def two(values):
        values["sft"]["epochs"] = "x"
        values["fetch"]["source"] = "y"

    with pytest.raises(UserError, match="2 problem"):
        core.load(Sft, write(tmp_path, two))


def test_no_mapping_and_no_file(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError, match="file not found"):
        core.load(Sft, path)
    path.write_text("- a\n- b\n")
    with pytest.raises(UserError, match="expected a mapping of sections, found list"):
        core.load(Sft, path)
    path.write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        core.load(Sft, path)


def test_an_integer_is_a_legal_float(tmp_path):
    assert core.load(Sft, write(tmp_path, change("sft", "epochs", 2))).epochs == 2.0


def test_every_field_is_documented():
    for section in core.load_all(Path("params.yaml")).values():
        if not isinstance(section, str):
            assert all(doc for _, _, doc in core.describe(type(section)))
