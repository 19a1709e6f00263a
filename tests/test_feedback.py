"""The task of rated texts: ratings become calls and come back, its own metrics are what they say."""

import re
from dataclasses import replace

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from supertiny.errors import UserError
from supertiny.evaluate import task_metrics
from supertiny.io import sha256_file
from supertiny.params.core import load
from supertiny.params.prepare import Prepare
from supertiny.prepare import SPLITS
from supertiny.task import load_task
from tasks.feedback import gold, metrics, ratings, swaps

TASK = load_task("feedback")
SURE_JOY = [0, 0, 0, 0, 0, 0, 0, 0, 20]
SURE_ANGER = SURE_JOY[::-1]


def rows(*counts):
    return [{"id": str(n), "source": "news", "ratings": each} for n, each in enumerate(counts)]


def answer(rating):
    return {"predicted": ratings.call_of(rating).to_json()}


@pytest.mark.parametrize(
    ("rating", "sentiment", "intensity"),
    [
        (0.0, "neutral", 0),
        (0.19, "neutral", 0),
        (-0.2, "negative", 0.5),
        (0.2, "positive", 0.5),
        (0.74, "positive", 0.5),
        (0.75, "positive", 1),
        (-2.3, "negative", 2.5),
        (4.0, "positive", 4),
    ],
)
def test_a_mean_rating_becomes_the_nearest_call(rating, sentiment, intensity):
    call = ratings.call_of(rating)
    assert call.arguments == {"sentiment": sentiment, "intensity": intensity}
    TASK.validate(call)
    assert abs(ratings.rating_of(call) - rating) <= max(0.25, ratings.GRID - abs(rating))


def test_every_text_is_there_with_its_raters_and_documents():
    texts = gold.read_texts()
    sources = {
        name: [t for t in texts if t["source"] == name] for name in {t["source"] for t in texts}
    }
    assert {name: len(group) for name, group in sources.items()} == {
        "tweets": 4200, "products": 3708, "films": 10605, "news": 5190,
    }  # fmt: skip
    documents = {name: len({t["document"] for t in group}) for name, group in sources.items()}
    assert documents == {"tweets": 1, "products": 300, "films": 1, "news": 498}
    assert min(sum(text["ratings"]) for text in texts) == 15
    joy = next(text for text in texts if text["text"] == "LMAO, AMAZING!")
    assert round(ratings.mean(joy["ratings"]), 4) == 2.8571


def test_the_data_is_that_of_the_package():
    digest = sha256_file(gold.TEXTS)
    assert digest == "5fe5373da16e70e2b9b71ca98fd4911e9721f35d700470a0167b840201875429"


def splits():
    params = replace(load(Prepare), held_out_share=0.1)
    source = gold.load(params)
    return {split: list(source.stream(split)) for split in SPLITS}


def test_what_vader_adds_is_train_alone_and_made_of_train_tweets():
    found = splits()
    sources = {split: {row["source"] for row in rows} for split, rows in found.items()}
    people = {"tweets", "products", "films", "news"}
    assert sources == {"test": people, "dev": people, "train": people | {"swaps", "words"}}

    def frame(text):  # what no exchange of words touches
        return re.sub("[A-Za-z]+", "w", text)

    frames = {frame(r["query"]) for r in found["train"] if r["source"] == "tweets"}
    swaps = [row["query"] for row in found["train"] if row["source"] == "swaps"]
    assert len(swaps) > 10_000 and {frame(text) for text in swaps} <= frames


def test_words_of_held_out_texts_alone_are_not_learnt_in_exchange():
    train = splits()["train"]

    def words(source_is_text):
        rows = [r for r in train if source_is_text(r["source"])]
        return {w for row in rows for w in re.findall("[a-z]+", row["query"].lower())}

    assert words("swaps".__eq__) <= words(lambda source: source not in {"swaps", "words"})


def test_an_exchanged_word_moves_the_rating_as_far_as_vaders_score():
    vader = SentimentIntensityAnalyzer()
    text, rating = "We had a GOOD time, Great food", 1.0
    for variant, moved in swaps.swapped([(text, rating)], ["awful", "superb"], 20, 1):
        was, now = (vader.polarity_scores(each)["compound"] for each in (text, variant))
        assert variant != text
        assert moved == pytest.approx(rating + swaps.RATING_PER_SCORE * (now - was))
        assert {w.lower() for w in re.findall("[A-Za-z]+", variant)} <= {
            "we", "had", "a", "time", "food", "good", "great", "awful", "superb"
        }  # fmt: skip
    assert list(swaps.swapped([("Nothing rated here", 0.0)], ["awful"], 4, 1)) == []


def test_a_rating_stays_on_the_raters_scale():
    made = swaps.swapped([("good", 3.9)], ["awful", "superb"], 20, 1)
    ratings_ = [rating for _, rating in made]
    assert -4 <= min(ratings_) < 3.9 < max(ratings_) == 4


def test_an_exchanged_word_keeps_ending_and_case():
    words = ["hated", "loving", "awful"]
    made = {variant for variant, _ in swaps.swapped([("LIKED, Good!", 1.0)], words, 30, 1)}
    assert made == {"HATED, Good!", "LIKED, Awful!", "HATED, Awful!"}


def test_perfect_answers_score_one_and_their_opposites_minus_one():
    some = rows(SURE_JOY, SURE_ANGER, [0, 0, 0, 0, 20, 0, 0, 0, 0])
    right = metrics.extra_metrics(some, [answer(4), answer(-4), answer(0)])
    assert right["news_correlation"] == pytest.approx(1) and right["news_f1"] == 1
    wrong = metrics.extra_metrics(some, [answer(-4), answer(4), answer(0)])
    assert wrong["news_correlation"] == pytest.approx(-1)
    assert wrong["news_f1"] == pytest.approx(1 / 3)
    assert right["news_rater_correlation"] == pytest.approx(1)  # whose raters all agree


def test_an_answer_that_is_no_call_counts_as_neutral():
    some = rows(SURE_JOY, SURE_ANGER, [0, 0, 0, 0, 20, 0, 0, 0, 0])
    values = metrics.extra_metrics(some, [answer(4), *[{"predicted": None}] * 2])
    assert values["news_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    nothing = metrics.extra_metrics(some, [{"predicted": None}] * 3)
    assert nothing["news_correlation"] == 0.0


def test_a_rater_is_not_among_the_others():
    row = {"id": "x", "source": "news", "ratings": [1, 0, 0, 0, 0, 0, 0, 0, 1]}
    one, others = metrics.one_rater(row)
    assert (one, others) in {(4.0, -4.0), (-4.0, 4.0)}
    assert metrics.one_rater(row) == (one, others) and row["ratings"] == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_share_of_each_rating_is_that_of_the_raters():
    counts = [0, 0, 0, 5, 10, 5, 0, 0, 0]
    drawn = [metrics.one_rater({"id": str(n), "ratings": counts})[0] for n in range(2000)]
    assert np.mean(np.array(drawn) == 0) == pytest.approx(0.5, abs=0.04)


def test_capitals_are_kept_for_the_student():
    assert TASK.normalise("GREAT") == "GREAT"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1], "gave list, expected a dict"),
        ({"f1": float("nan")}, r"\['f1'\]: expected finite numbers"),
        ({"f1": "high"}, r"\['f1'\]: expected finite numbers"),
        ({"exact_match": 1.0}, r"\['exact_match'\]: names every task has already"),
    ],
)
def test_metrics_of_a_task_that_cannot_stand_in_a_file_are_refused(monkeypatch, found, message):
    monkeypatch.setattr(metrics, "extra_metrics", lambda *_: found)
    with pytest.raises(UserError, match=message):
        task_metrics(TASK, [], [], taken={"exact_match"})


def test_a_task_without_metrics_has_none():
    assert task_metrics(load_task("home"), [], []) == {}
