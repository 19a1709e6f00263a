"""Drafts: they change no answer, they save passes, and they are what rows say."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import LESSONS

from supertiny.decoding import SHORT, Drafted, Greedy
from supertiny.drafting import LONGEST, Drafts
from supertiny.export import export_onnx
from supertiny.modelfolder import DRAFTS_FILE
from supertiny.runtime import OnnxStudent

END = 2
QUERIES = [*(lesson["query"] for lesson in LESSONS), "lamp", "dim the attic to 77", "Garage on 3"]


@pytest.fixture(scope="module")
def folder(taught_model, lamps, tmp_path_factory):
    """The taught model as it is exported for drafts, with none that says anything."""
    out = tmp_path_factory.mktemp("onnx") / "drafted"
    export_onnx(taught_model, lamps, out, drafts=Drafts({}, {}, [END]))
    return out


@pytest.fixture(scope="module")
def taught(folder):
    return OnnxStudent(folder)


class Always(Drafts):
    """Drafts that are given, whatever came before."""

    def __init__(self, draft):
        super().__init__({}, {}, [END])
        self._tokens = draft

    def draft(self, prompt, answer):
        return self._tokens(prompt, answer)


def right(student):
    """Drafts with all that the student will write."""

    def rest(prompt, answer):
        whole = Greedy(student.engine, [prompt], 40).finish().ids()
        assert whole[: len(answer)] == answer
        return whole[len(answer) :]

    return Always(rest)


def wrong_from(student, at):
    """Right drafts, but for one token."""
    known = right(student)

    def rest(prompt, answer):
        draft = known.draft(prompt, answer)
        return [*draft[:at], *(5 for _ in draft[at : at + 1]), *draft[at + 1 :]]

    return Always(rest)


def anything(draw):
    return Always(lambda *_: [draw.randrange(3, 500) for _ in range(draw.randrange(LONGEST))])


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 40])
def test_no_draft_changes_an_answer(taught, limit):
    kinds = [
        right(taught), wrong_from(taught, 0), wrong_from(taught, 2), anything(random.Random(1)),
        Always(lambda *_: []), Always(lambda prompt, _: prompt[:LONGEST]),
    ]  # fmt: skip
    for query in QUERIES:
        prompt = taught.encode(query)
        plain = Greedy(taught.engine, [prompt], limit, scored=True).finish()
        for drafts in kinds:
            drafted = Drafted(taught.engine, prompt, limit, drafts, scored=True).finish()
            assert drafted.ids() == plain.ids()
            np.testing.assert_allclose(
                drafted.log_probabilities(), plain.log_probabilities(), atol=1e-3
            )


def test_a_right_draft_takes_one_pass_and_a_wrong_one_a_pass_a_token(taught):
    prompt = taught.encode("please dim the Hall to 5")
    tokens = len(Greedy(taught.engine, [prompt], 40).finish().ids()) + 1
    assert sum(1 for _ in Drafted(taught.engine, prompt, 40, right(taught))) == 1
    assert sum(1 for _ in Drafted(taught.engine, prompt, 40, wrong_from(taught, 0))) == tokens


def test_answers_that_share_a_generator_are_their_own(taught, monkeypatch):
    """One after the other, side by side, after one that was given up, and from several threads."""
    drafts = right(taught)
    prompts = [taught.encode(query) for query in QUERIES]
    wanted = [Greedy(taught.engine, [prompt], 40).finish().ids() for prompt in prompts]
    made = []
    make = taught.engine.generator
    monkeypatch.setattr(taught.engine, "_begun", [])
    monkeypatch.setattr(taught.engine, "generator", lambda *a, **k: made.append(1) or make(*a, **k))

    def answer(prompt):
        return Drafted(taught.engine, prompt, 40, Always(lambda *_: [5, 6])).finish().ids()

    assert [answer(prompt) for prompt in prompts] == wanted
    assert len(made) == 1
    next(iter(Drafted(taught.engine, prompts[0], 40, drafts)))
    assert [answer(prompt) for prompt in prompts] == wanted
    together = [Drafted(taught.engine, prompt, 40, Always(lambda *_: [])) for prompt in prompts]
    for _ in itertools.zip_longest(*together):
        pass
    assert [drafted.ids() for drafted in together] == wanted
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, prompts * 8)) == wanted * 8


def test_an_answer_longer_than_a_shared_generator_has_one_of_its_own(taught):
    prompt = taught.encode(" ".join(["please dim the Hall to 5"] * 10))
    assert len(prompt) > SHORT
    wanted = Greedy(taught.engine, [prompt], 9).finish().ids()
    assert Drafted(taught.engine, prompt, 9, Always(lambda *_: [5])).finish().ids() == wanted


def test_a_folder_with_drafts_answers_as_one_without_in_fewer_passes(
    taught, taught_onnx, folder, tmp_path
):
    rows = [
        (
            taught.encode(lesson["query"]),
            [*taught.generate([taught.encode(lesson["query"])], 64)[0], END],
        )
        for lesson in LESSONS
    ]
    plain = OnnxStudent(taught_onnx)
    for path in folder.iterdir():
        if path.name != DRAFTS_FILE:
            (tmp_path / path.name).symlink_to(path)
    Drafts.learn(rows * 20).write(tmp_path / DRAFTS_FILE)
    student = OnnxStudent(tmp_path)
    for lesson in LESSONS:
        assert student.predict(lesson["query"]) == plain.predict(lesson["query"])
        before, after = (s.timed(lesson["query"]) for s in (plain, student))
        # All but what the first pass wrote; a wrong guess costs no token.
        assert after.decode_tokens < before.decode_tokens or before.decode_tokens < 3


ROWS = [
    *(([1, 10, 11, name], [50, 51, 60, name, END]) for name in (12, 13, 14, 15)),
    ([1, 20, 12], [52, 53, END]),
]


def test_an_opening_is_guessed_by_the_prompt_and_goes_on_as_answers_do():
    drafts = Drafts.learn(ROWS * 20)
    # 60 comes after 51 always; what comes after 60 is any of four.
    assert drafts.draft([1, 10, 11, 99], []) == [50, 51, 60]
    assert drafts.draft([1, 20, 99], []) == [52, 53]  # and never the end
    assert drafts.draft([7, 8, 9], []) == []


def test_a_query_is_copied_on_where_nothing_better_is_known():
    drafts = Drafts.learn(ROWS * 20)
    assert drafts.draft([1, 77, 78, 79, 80], [50, 51, 60, 77]) == [78, 79]  # 0.6 * 0.6 * 0.6 < 0.3
    # Of a token that comes twice the last place counts; the prompt ends after it.
    assert drafts.draft([1, 77, 78, 77, 88], [77]) == [88]


def test_what_is_rare_or_undecided_is_not_drafted():
    assert Drafts.learn(ROWS * 3).draft([1, 10, 11, 99], []) == []
    undecided = [([1, 10], [50 + number % 4, END]) for number in range(100)]
    assert Drafts.learn(undecided).draft([1, 10], []) == []


def test_drafts_are_the_same_in_any_order_of_rows_and_after_reading(tmp_path):
    rows = ROWS * 30 + [([1, 10, 12], [50, 54, END])] * 30
    mixed = random.Random(3).sample(rows, len(rows))
    Drafts.learn(rows).write(tmp_path / "a.json")
    Drafts.learn(mixed).write(tmp_path / "b.json")
    Drafts.read(tmp_path / "a.json").write(tmp_path / "c.json")
    texts = {(tmp_path / f"{name}.json").read_bytes() for name in "abc"}
    assert len(texts) == 1
    read = Drafts.read(tmp_path / "a.json")
    for prompt, answer in rows:
        for at in range(len(answer)):
            assert read.draft(prompt, answer[:at]) == Drafts.learn(rows).draft(prompt, answer[:at])
            assert END not in read.draft(prompt, answer[:at])
