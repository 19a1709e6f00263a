"""Number words fold to the digits they stand for, checked against an independent number speller."""

import pytest
from hassil.numbers import get_rbnf_engine
from hypothesis import given
from hypothesis import strategies as st

from supertiny.numberwords import fold_number_words


@given(st.integers(0, 999_999), st.booleans())
def test_every_number_spelled_out_comes_back(number, hyphens):
    words = get_rbnf_engine("en").format_number(number).text
    assert fold_number_words(words if hyphens else words.replace("-", " ")) == str(number)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("five six", "5 6"),
        ("twenty thirty", "20 30"),
        ("one hundred and five lamps and two fans", "105 lamps and 2 fans"),
        ("lamp two and lamp three", "lamp 2 and lamp 3"),
        ("t-shirt", "t-shirt"),
        ("someone weighty", "someone weighty"),
        ("hundred", "hundred"),
        ("no numbers at all", "no numbers at all"),
    ],
)
def test_words_that_are_no_part_of_a_number_stay(text, folded):
    assert fold_number_words(text) == folded
