"""The mixes tried fit the target and waste nothing; the best of them is taken."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from supertiny.errors import UserError
from supertiny.prune.search import HEADER, Mix, mixes, search, table
from supertiny.prune.size import count_parameters

CONFIG = LlamaConfig(
    vocab_size=1024, hidden_size=64, intermediate_size=256, num_hidden_layers=8,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip


def parameters(mix):
    return count_parameters(CONFIG, mix.vocabulary, mix.layers, mix.width)


def sizes(most):
    return st.lists(st.integers(1, most), min_size=1, max_size=5)


@given(sizes(1024), sizes(8), sizes(256), st.integers(0, 600_000))
def test_every_mix_that_fits_is_there_or_below_one_that_is(vocabularies, layers, widths, target):
    allowed = {Mix(*chosen) for chosen in product(vocabularies, layers, widths)}
    fitting = {mix for mix in allowed if parameters(mix) <= target}
    if not fitting:
        with pytest.raises(UserError, match="the smallest allowed mix has"):
            mixes(CONFIG, target, vocabularies, layers, widths)
        return
    found = mixes(CONFIG, target, vocabularies, layers, widths)
    assert set(found) <= fitting and found == sorted(set(found))

    def covers(big, small):
        pairs = [(big.vocabulary, small.vocabulary), (big.layers, small.layers)]
        return all(a >= b for a, b in [*pairs, (big.width, small.width)])

    assert all(any(covers(mix, other) for mix in found) for other in fitting)
    assert not any(covers(a, b) for a in found for b in found if a != b)


def test_the_best_score_wins_and_of_equals_the_smaller():
    candidates = [Mix(512, 8, 64), Mix(512, 4, 64), Mix(512, 6, 64), Mix(512, 2, 64)]
    scores = {8: 0.5, 4: 0.7, 6: 0.7, 2: -1.0}
    best, rows = search(CONFIG, candidates, lambda mix: scores[mix.layers])
    assert best == Mix(512, 4, 64)
    assert [row.mix for row in rows] == candidates
    shown = table(rows, best)
    assert shown[1] == [512, 4, 64, parameters(best), "0.7", 1]
    assert [row[-1] for row in shown] == [0, 1, 0, 0]
    assert all(len(row) == len(HEADER) for row in shown)


def test_impossible_axes_are_named():
    with pytest.raises(UserError, match=r"layers: found \[9\], expected sizes from 1 to 8"):
        mixes(CONFIG, 10**6, [64], [9], [64])
    with pytest.raises(UserError, match=r"widths: found \[\]"):
        mixes(CONFIG, 10**6, [64], [8], [])
    with pytest.raises(UserError, match="target_params: found 10, but the smallest"):
        mixes(CONFIG, 10, [64], [2], [64])
