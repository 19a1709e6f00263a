"""The graded reward: -1 for what is no call, a share of the arguments otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supertiny.calls import ToolCall
from supertiny.rewards import reward, teaches

QUERY = "dim the green room upstairs to 30"
GOLD = ToolCall("Dim", {"area": "green room upstairs", "brightness": 30})


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (" dim\n area green room upstairs\n brightness 30", 1.0),
        (" dim\n brightness 30\n area green room upstairs", 1.0),
        (" dim\n brightness 30", 0.5),
        (" dim\n area green room upstairs\n brightness 31", 0.5),
        # ROUGE-L F1 of 2 words in order out of 3 and 2: 2 * 2 / 5.
        (" dim\n area green upstairs\n brightness 30", (0.8 + 1) / 2),
        (" dim\n area cellar\n brightness 5", 0.0),
        (" light on\n area green room upstairs", 0.0),
        (" no_call", 0.0),
        ("", -1.0),
        (" lamp\n area hall", -1.0),
        (" dim\n brightness", -1.0),
        (" dim\n colour red\n brightness 30", -1.0),
        (" dim\n brightness 300", -1.0),
        (" dim\n area green room upstairs", -1.0),
    ],
)
def test_an_answer_is_worth_its_share_of_the_gold_call(lamps, answer, wanted):
    assert reward(answer, QUERY, GOLD, lamps) == pytest.approx(wanted)


def test_names_have_the_casing_of_the_query_as_in_the_evaluation(lamps):
    gold = ToolCall("Dim", {"area": "Green Room", "brightness": 30})
    answer = " dim\n area green room\n brightness 30"
    assert reward(answer, "dim the Green Room to 30", gold, lamps) == 1.0


def test_an_unneeded_argument_costs(lamps):
    gold = ToolCall("Dim", {"brightness": 30})
    assert reward(" dim\n area hall\n brightness 30", "dim to 30", gold, lamps) == 0.5


def test_no_call_is_right_where_it_is_gold(lamps):
    gold = ToolCall("no_call")
    assert reward(" no_call", "who won", gold, lamps) == 1.0
    assert reward(" light on", "who won", gold, lamps) == 0.0


@given(answer=st.text())
def test_any_text_has_a_reward(lamps, answer):
    value = reward(answer, QUERY, GOLD, lamps)
    assert value == -1 or 0 <= value <= 1


@pytest.mark.parametrize(
    ("rewards", "wanted"),
    [
        ([1.0, 0.0], True),
        ([-1.0, 1.0, 1.0], True),
        ([1.0] * 199 + [0.0], False),  # mean 0.995
        ([1.0] * 99 + [0.0], True),  # mean 0.99
        ([0.0] * 199 + [1.0], False),  # mean 0.005
        ([0.0] * 99 + [1.0], True),  # mean 0.01
        ([-1.0, 1.0], False),  # mean 0
        ([-1.0, -1.0, 1.0], False),
        ([0.5, 0.5, 0.5], False),  # no spread
    ],
)
def test_groups_that_teach_nothing_are_dropped(rewards, wanted):
    assert teaches(rewards) is wanted
