"""Parameters of the stage `prepare`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Prepare:
    """How many inputs, of what mix, and how test is kept apart from train."""

    seed: int = param("seed of every draw", ge=0)
    train_rows: int = param("training inputs", ge=1)
    dev_rows: int = param("inputs for choosing and tuning", ge=1)
    test_rows: int = param("inputs of the frozen test set", ge=1)
    languages: tuple[str, ...] = param(
        "languages the inputs are in, of those task.yaml names; each gets an equal part of the rows"
    )
    tool_balance: float = param(
        "1: every tool equally often; 0: in proportion to its ways of being called", ge=0, le=1
    )
    no_call_share: float = param("share of inputs that call for no tool", ge=0, le=0.9)
    natural_share: float = param(
        "share of training commands from the task's own natural sentences", ge=0, le=1
    )
    natural_test_share: float = param("the same share in dev and test", ge=0, le=1)
    everyday_share: float = param(
        "share of names and numbers in training commands drawn from those that come up every day",
        ge=0,
        le=1,
    )
    invented_share: float = param(
        "share of the other names in training commands that get a word nobody has heard", ge=0, le=1
    )
    number_words_share: float = param("share of numbers spoken as words", ge=0, le=1)
    noise_share: float = param("share of training commands with typos and odd casing", ge=0, le=1)
    noise_test_share: float = param("the same share in dev and test", ge=0, le=1)
    held_out_share: float = param("share of templates and of names kept for test", ge=0.05, le=0.5)
    max_prompt_bytes: int = param(
        "rows with a longer prompt (UTF-8) are left out and counted; 0: none is", ge=0
    )
    max_similarity: float = param(
        "token-set Jaccard similarity from which two inputs count as near-duplicates", ge=0, le=1
    )
