"""Greedy decoding in ONNX Runtime GenAI: many prompts of one length, one under a grammar, or one with
drafts."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from supertiny.drafting import Drafts
from supertiny.errors import CallError
from supertiny.io import read_json

MAX_FORCED_TOKENS = 64  # that a grammar may append in one step, past the limit of an answer
MAX_BATCH = 32  # rows; ONNX Runtime GenAI takes no more
SHORT = 128  # tokens of prompt and answer that a generator which is used again has room for


class Engine:
    """A model folder, loaded.

    Args:
        threads: CPU threads of one forward pass; None is two, or one where the process may use but one core.
            Left to itself, ONNX Runtime takes 1.3 to 1.7 times as long on two cores: it pins its
            own threads there and not the caller's.
    """

    def __init__(self, folder: Path, threads: int | None) -> None:
        import onnxruntime_genai  # slow to load, and not needed to read a task or check a folder

        onnxruntime_genai.disable_telemetry_events()
        config = onnxruntime_genai.Config(str(folder))
        options = {"intra_op_num_threads": threads or min(2, len(os.sched_getaffinity(0)))}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._genai, self._model = onnxruntime_genai, onnxruntime_genai.Model(config)
        model = read_json(folder / "genai_config.json")["model"]
        ends = model["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.start_id: int = model["bos_token_id"]
        self._begun: list[Any] = []  # generators that wait for a prompt, the start token read

    def generator(
        self, batch_size: int, max_length: int, grammar: str | None = None, skip_forced: bool = True
    ) -> Any:
        """A generator of ONNX Runtime GenAI that decodes greedily.

        Args:
            skip_forced: whether tokens that the grammar forces are appended without being computed.
        """
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(batch_size=batch_size, max_length=max_length, do_sample=False)
        if grammar is not None:
            params.set_guidance("lark_grammar", grammar, skip_forced)
        return self._genai.Generator(self._model, params)

    def begun(self) -> Any:
        """A generator for one prompt of `SHORT` tokens with its answer, the start token read.

        One that was given back saves a new one's making and that token's pass, a twentieth of the
        time of a short command. Any number may be out at a time, from any thread.
        """
        try:
            return self._begun.pop()
        except IndexError:
            generator = self.generator(1, SHORT)
            generator.append_tokens(np.array([[self.start_id]], dtype=np.int32))
            return generator

    def give_back(self, generator: Any) -> None:
        """Keep a generator of `begun` for another prompt; one that never comes back is not missed."""
        generator.rewind_to(1)
        self._begun.append(generator)

    def until_end(self, ids: list[int]) -> list[int]:
        """Token ids up to the first end token, without it."""
        return next((ids[:at] for at, token in enumerate(ids) if token in self.end_ids), ids)


class Decoding(ABC):
    """An answer, or several, that are being decoded: iterate to take one step after the other.

    ``limit`` is the most tokens of an answer, ``scored`` says whether their chances are kept.
    """

    limit: int
    scored: bool

    @abstractmethod
    def __iter__(self) -> Iterator[None]:
        """Takes the steps that are left."""

    @abstractmethod
    def ids(self, row: int = 0) -> list[int]:
        """What a row has so far: at most ``limit`` tokens, up to the end token, without it."""

    @abstractmethod
    def log_probabilities(self, row: int = 0) -> np.ndarray:
        """The model's own of each token of a row's answer, the end token's among them, in nats."""

    def finish(self) -> Self:
        """Take all the steps that are left."""
        for _ in self:
            pass
        return self


class Greedy(Decoding):
    """Greedy continuations of prompts of one length, a token a step.

    Args:
        grammar: what one single prompt's answer must follow.
        scored: whether to keep how likely the model found each token that it chose.

    Raises:
        ValueError: the prompts differ in length.
        CallError: while decoding, the grammar left a letter of several tokens as the only way to go on.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        grammar: str | None = None,
        scored: bool = False,
    ) -> None:
        self._engine, self._rows, self.scored = engine, len(prompts), scored
        self._width, self.limit = _common_length(prompts), max_new_tokens
        self._steps: list[np.ndarray] = []
        # Room for what is forced at the very end: the engine fails on tokens over the length.
        self._room = self._width + max_new_tokens + (MAX_FORCED_TOKENS if grammar else 0)
        # A score is that of all tokens, under a grammar as without one.
        self._generator = engine.generator(self._rows, self._room, grammar, not scored)
        self._generator.append_tokens(np.array(prompts, dtype=np.int32))

    def __iter__(self) -> Iterator[None]:
        try:
            yield from self._take_steps()
        except RuntimeError as error:
            # In the middle of a letter of several tokens ONNX Runtime GenAI (0.18.0) takes the bytes
            # that must come for text of their own, forces those of U+FFFD and then refuses them.
            if "committing tokens" not in str(error):
                raise
            raise CallError("the grammar asks for a letter that takes several tokens") from None

    def _take_steps(self) -> Iterator[None]:
        generator, end = self._generator, self._width + self.limit
        while not generator.is_done() and generator.token_count() < end:
            # Taken before the step, so before the grammar has struck out what it forbids.
            logits = last_logits(generator) if self.scored else None
            generator.generate_next_token()
            if logits is not None:
                logits = logits.reshape(self._rows, -1)
                chosen = [self._chosen(row, logits[row]) for row in range(self._rows)]
                self._steps.append(log_probabilities(logits, chosen))
            yield

    def _chosen(self, row: int, logits: np.ndarray) -> int:
        # The end tokens that end the last rows are not appended.
        generator, ends = self._generator, self._engine.end_ids
        if generator.is_done() and generator.token_count() < self._room:
            return max(ends, key=lambda end: float(logits[end]))
        return int(generator.get_sequence(row)[-1])

    def ids(self, row: int = 0) -> list[int]:
        # A row that ends before its batch does is filled up with the padding token.
        tokens = [int(token) for token in self._generator.get_sequence(row)]
        return self._engine.until_end(tokens[self._width :])[: self.limit]

    def log_probabilities(self, row: int = 0) -> np.ndarray:
        return np.array([step[row] for step in self._steps[: len(self.ids(row)) + 1]])


class Drafted(Decoding):
    """The greedy continuation of one prompt; each step is one forward pass and one or more tokens.

    A pass takes the drafted next tokens too. As far as they are what the model chooses they stay,
    and so does its choice after them; of the rest the engine's cache is rewound.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Sequence[int],
        max_new_tokens: int,
        drafts: Drafts,
        scored: bool = False,
    ) -> None:
        self._engine, self._drafts, self._prompt = engine, drafts, list(prompt)
        self.limit, self.scored = max_new_tokens, scored
        self._answer: list[int] = []
        self._scores: list[np.ndarray] = []

    def __iter__(self) -> Iterator[None]:
        engine, prompt, room = self._engine, self._prompt, len(self._prompt) + self.limit
        if room <= SHORT and len(prompt) > 1 and prompt[0] == engine.start_id:
            generator = engine.begun()
            yield from self._take_passes(generator, prompt[1:])
            engine.give_back(generator)
        else:
            yield from self._take_passes(engine.generator(1, room), prompt)

    def _take_passes(self, generator: Any, new: list[int]) -> Iterator[None]:
        answer, end = self._answer, self._engine.end_ids
        while len(answer) < self.limit and not (answer and answer[-1] in end):
            room = self.limit - len(answer) - 1
            draft = self._drafts.draft(self._prompt, answer)[:room]
            kept = generator.token_count() + len(new)
            generator.append_tokens(np.array([[*new, *draft]], dtype=np.int32))
            logits = np.asarray(generator.get_output("logits"))[0, -1 - len(draft) :]
            chosen = logits.argmax(-1).tolist()
            right = next((at for at, t in enumerate(draft) if t != chosen[at]), len(draft))
            found = chosen[: right + 1]
            if right < len(draft):
                generator.rewind_to(kept + right)
            if self.scored:
                self._scores.append(log_probabilities(logits[: right + 1], found))
            answer += found
            new = found[-1:]
            yield

    def ids(self, row: int = 0) -> list[int]:
        return self._engine.until_end(self._answer)

    def log_probabilities(self, row: int = 0) -> np.ndarray:
        return np.concatenate(self._scores)


def last_logits(generator: Any) -> np.ndarray:
    """Logits of the next token, a copy: shape (rows * vocabulary,), fp32."""
    return np.array(generator.get_logits(), dtype=np.float32).reshape(-1)


def log_probabilities(logits: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Of one chosen token a row, in nats: logits of shape (rows, vocabulary) to (rows,)."""
    top = logits.max(-1)
    total = np.log(np.exp(logits - top[:, None]).sum(-1))
    return logits[np.arange(len(logits)), np.asarray(chosen)] - top - total


def equal_length_batches(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts in batches of one length each, at most ``batch_size`` a batch.

    Like prompts come together, since like commands have answers of like length and a batch runs
    until its longest answer ends.
    """
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), prompts[index]))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == batch_size or len(prompts[index]) != len(prompts[batch[0]])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) != 1:
        raise ValueError(f"expected prompts of one length, found {sorted(lengths)}")
    return lengths.pop()
