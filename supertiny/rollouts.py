"""Groups of sampled answers to one query each, and their rewards.

Samples that have had the same tokens so far are one row of the batch: a student that is nearly sure
of its answer gives most of a group the same beginning, and the prompt is read once for all of it.
Each still draws its next token for itself, so the samples stay independent.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedTokenizerBase

from supertiny.calls import call_from_json
from supertiny.rewards import ILLEGAL, reward
from supertiny.student import TorchStudent
from supertiny.task import Task


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    group_size: int
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class Group:
    """A row of the task, answers sampled to its query, and their rewards, as many.

    An answer is its token ids, with the end token if it was reached.
    """

    row: Mapping[str, Any]
    answers: list[list[int]]
    rewards: list[float]

    @property
    def mean(self) -> float:
        """Mean reward."""
        return statistics.fmean(self.rewards)

    @property
    def spread(self) -> float:
        """Standard deviation of the rewards; 0 where there is nothing to learn from."""
        return statistics.pstdev(self.rewards)


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator seeded by all the numbers of ``key``: each key has draws of its own."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def grade(
    answer: Sequence[int], query: str, call: dict[str, Any], task: Task, tokenizer: Any
) -> float:
    """`supertiny.rewards.reward` of an answer's text; one that did not end is illegal."""
    if answer[-1] != tokenizer.eos_token_id:
        return ILLEGAL
    text = tokenizer.decode(answer[:-1], clean_up_tokenization_spaces=False)
    return reward(text, query, call_from_json(call), task)


def prompt_ids(query: str, task: Task, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The prompt as fine-tuning has it: start token, then `Task.render_prompt`."""
    text = tokenizer.bos_token + task.render_prompt(query)
    return tokenizer.encode(text, add_special_tokens=False)


def sample_groups(
    student: TorchStudent,
    rows: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    batch_size: int,
    randomness: torch.Generator,
) -> list[Group]:
    """A group for each row, in order; ``batch_size`` rows of similar length at once."""
    task, tokenizer = student.task, student.tokenizer
    tasks = [task.of(row) for row in rows]
    prompts = [
        prompt_ids(row["query"], posed, tokenizer) for row, posed in zip(rows, tasks, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda index: (len(prompts[index]), index))
    found: dict[int, Group] = {}
    with tqdm(total=len(rows), unit="group", mininterval=1.0, disable=None, leave=False) as bar:
        for at in range(0, len(order), batch_size):
            members = order[at : at + batch_size]
            answers = _sample(student, [prompts[index] for index in members], sampling, randomness)
            for index, group in zip(members, answers, strict=True):
                query, call = rows[index]["query"], rows[index]["call"]
                rewards = [grade(answer, query, call, tasks[index], tokenizer) for answer in group]
                found[index] = Group(rows[index], group, rewards)
            bar.update(len(members))
    return [found[index] for index in range(len(rows))]


@torch.inference_mode()
def _sample(
    student: TorchStudent, prompts: list[list[int]], sampling: Sampling, randomness: torch.Generator
) -> list[list[list[int]]]:
    """The answers to one batch of prompts, padded on the left to the longest."""
    size, end = sampling.group_size, student.tokenizer.eos_token_id
    width = max(map(len, prompts))
    gaps = [width - len(row) for row in prompts]
    ids = torch.tensor([[end] * gap + row for gap, row in zip(gaps, prompts, strict=True)])
    visible = torch.tensor([[False] * gap + [True] * (width - gap) for gap in gaps])
    answers: list[list[int]] = [[] for _ in range(len(prompts) * size)]
    sharing = [list(range(at * size, (at + 1) * size)) for at in range(len(prompts))]
    cache = DynamicCache()
    for _ in range(sampling.max_new_tokens):
        logits = student.next_logits(ids, visible, cache)
        drawn = torch.multinomial(
            (logits / sampling.temperature).softmax(-1),
            max(map(len, sharing)),
            replacement=True,
            generator=randomness,
        ).tolist()
        parents, tokens, children = [], [], []
        for at, samples in enumerate(sharing):
            split: dict[int, list[int]] = defaultdict(list)
            for sample, token in zip(samples, drawn[at], strict=False):  # as many as are needed
                answers[sample].append(token)
                split[token].append(sample)
            for token, members in split.items():
                if token != end:
                    parents.append(at)
                    tokens.append(token)
                    children.append(members)
        if not parents:
            break
        if parents != list(range(len(sharing))):
            cache.batch_select_indices(torch.tensor(parents, device=student.device))
        visible = torch.nn.functional.pad(visible[parents], (0, 1), value=True)
        ids = torch.tensor(tokens)[:, None]
        sharing = children
    return [answers[at * size : (at + 1) * size] for at in range(len(prompts))]
