"""What every stage does around its own work: its one argument."""

import pytest

from supertiny.errors import UserError
from supertiny.stage import one_argument

VARIANTS = ("fp32", "int8")


def test_the_one_argument_is_the_one_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["stages/benchmark.py", "int8"])
    assert one_argument(VARIANTS, "the variants") == "int8"


@pytest.mark.parametrize(
    ("given", "named"),
    [([], "[]"), (["int4"], "['int4']"), (["fp32", "int8"], "['fp32', 'int8']"), ([""], "['']")],
)
def test_none_two_or_another_is_a_users_mistake(given, named, monkeypatch):
    monkeypatch.setattr("sys.argv", ["stages/benchmark.py", *given])
    with pytest.raises(UserError) as caught:
        one_argument(VARIANTS, "benchmark.variants in params.yaml")
    message = str(caught.value)
    assert message.startswith(f"stage benchmark: found the arguments {named}, ")
    assert "expected exactly one of benchmark.variants in params.yaml (fp32, int8)" in message
    assert "`python -m stages.benchmark fp32`" in message
