"""The student as it ships: ONNX Runtime GenAI on CPU, greedy, without torch or a checkout.

Answers are legal calls of the task: one that its grammar does not allow is decoded again under it,
where no other can be written and tokens that the grammar forces are not computed.

The tokenizer is the `tokenizers` package reading the model folder's tokenizer.json, the same code
as in training: the tokenizer built into ONNX Runtime GenAI splits digits outside ASCII and signs
such as "½" into other tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from supertiny.calls import ToolCall
from supertiny.checksums import SUMS, check_sums
from supertiny.confidence import Prediction, raw_score, read_calibration
from supertiny.conversation import Said
from supertiny.decoding import (
    MAX_BATCH,
    Decoding,
    Drafted,
    Engine,
    Greedy,
    equal_length_batches,
    last_logits,
)
from supertiny.drafting import Drafts
from supertiny.errors import CallError
from supertiny.grammar import lark_grammar
from supertiny.modelfolder import DRAFTS_FILE, TASK_FOLDER, check_folder
from supertiny.quoting import places
from supertiny.rowtools import as_text, read_tools
from supertiny.task import Task, load_task_folder

MAX_CHARACTERS = 4096  # of a query; more are refused before any work is done on them
MAX_PROMPT_TOKENS = 256  # of the query's own text; a command is about 20
MAX_TOOLS_TOKENS = 1024  # of the signatures of tools that a query brings, in place of the task's
MAX_NEW_TOKENS = 64
_LONGEST_QUOTE = 24  # words of an argument that is decoded as a run of the query's words
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Timing:
    """One query at batch 1: tokens and seconds of its two phases, and of all of it."""

    prompt_tokens: int
    prefill_s: float  # the first forward pass: prompt and draft in, first tokens chosen
    decode_tokens: int  # tokens of the later passes, the end token among them
    decode_s: float
    total_s: float  # from query text to answer text


@dataclass(frozen=True)
class _Prompt:
    """Token ids with the start token, the query they are made of (None if nobody knows), and what the
    answer to them must be: a call of this task."""

    ids: list[int]
    query: str | None
    task: Task
    grammar: str | None


@dataclass(frozen=True)
class Answer:
    """What a student wrote.

    ``text`` is without the end token; ``ended`` is false where the limit of its tokens came first.
    ``score`` is that of `supertiny.confidence.raw_score`, where it was asked for.
    """

    ids: list[int]
    text: str
    ended: bool
    score: float | None = None

    def call(self, task: Task, query: Said) -> ToolCall:
        """The call it stands for, free strings in the casing of the query.

        Raises:
            CallError: it did not end, so that what is there may be half a call; or it is no legal
                call of the task.
        """
        if not self.ended:
            raise CallError(f"the answer did not end within {len(self.ids)} tokens")
        posed = task.of(query)
        return posed.parse_call(self.text, posed.as_query(query))


@lru_cache(maxsize=256)
def _grammar(tools: str) -> str:
    """The grammar of a tool list that a query brings, by `supertiny.rowtools.as_text`."""
    return lark_grammar(read_tools(tools))


class OnnxStudent:
    """A model folder made by the stages `export` and `quantize`.

    Args:
        folder: holds `supertiny.modelfolder.MODEL_FILES` and the task's in the subfolder ``task``.
        threads: CPU threads of one forward pass; see `supertiny.decoding.Engine`.
        constrained: whether answers are decoded under the task's grammar.

    Raises:
        UserError: the folder or a file of it is missing, is not what its checksums say, or lies
            outside the folder; or its task is broken.
    """

    def __init__(
        self, folder: Path | str, threads: int | None = None, constrained: bool = True
    ) -> None:
        self.folder = Path(folder)
        check_folder(self.folder)
        if (self.folder / SUMS).is_file():
            check_sums(self.folder)
        self.task = load_task_folder(self.folder / TASK_FOLDER)
        self.grammar = lark_grammar(self.task.tools) if constrained else None
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.calibration = read_calibration(self.folder)
        drafts = self.folder / DRAFTS_FILE
        self.drafts = Drafts.read(drafts) if drafts.is_file() else None
        # The signatures, where a task shows them, stand before every query and are no user's fault.
        empty = self.tokenizer.encode(self.task.render_prompt(""), add_special_tokens=False)
        self.max_prompt_tokens = MAX_PROMPT_TOKENS + len(empty.ids)
        self.engine = Engine(self.folder, threads)
        self.end_ids, self.until_end = self.engine.end_ids, self.engine.until_end

    def encode(self, query: Said) -> list[int]:
        """Token ids of the prompt of a query or conversation, the start token first.

        Raises:
            CallError: messages that are no conversation; blank, no valid Unicode text, more than
                `MAX_CHARACTERS` characters or more than `max_prompt_tokens` tokens; with tools of its
                own: malformed ones, or more than `MAX_PROMPT_TOKENS` and `MAX_TOOLS_TOKENS` together.
        """
        return self._prompt(query).ids

    def _prompt(self, asked: Said) -> _Prompt:
        task, grammar, most = self.task.of(asked), self.grammar, self.max_prompt_tokens
        query = task.as_query(asked)
        if len(query) > MAX_CHARACTERS:  # first, since all else takes time
            raise CallError(
                f"query too long: found {len(query)} characters, at most {MAX_CHARACTERS} "
                f"are allowed; it starts {query[:40]!r}"
            )
        if not query.strip():
            raise CallError("query is blank")
        if isinstance(asked, Mapping) and "tools" in asked:
            most = MAX_PROMPT_TOKENS + MAX_TOOLS_TOKENS
            grammar = grammar and _grammar(as_text(asked["tools"]))
        elif not task.tools:
            raise CallError("no tools: this task has none of its own, so each query brings `tools`")
        text = task.render_prompt(query)
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise CallError("query is no valid Unicode text (a lone surrogate)")
        ids = [self.engine.start_id, *self.tokenizer.encode(text, add_special_tokens=False).ids]
        if len(ids) > most:
            raise CallError(
                f"query too long: found {len(ids)} tokens, at most {most} "
                f"are allowed; it starts {query[:40]!r}"
            )
        return _Prompt(ids, query, task, grammar)

    def decode(self, ids: Sequence[int]) -> str:
        """The raw answer text of token ids without the end token."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def answers(
        self,
        queries: Sequence[Said],
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = MAX_BATCH,
        quiet: bool = False,
    ) -> list[str | CallError]:
        """The raw greedy answer to each query, in order, without the end token.

        A query that `encode` refuses has its error for an answer.
        A ``batch_size`` over `MAX_BATCH` is taken as that.
        Progress goes to stderr, unless ``quiet`` or where that is no terminal.
        Only prompts of the same length share a batch, so nothing is ever padded: the graph picks
        the logits of the last column, and its attention takes no account of padding before it.
        """
        found = self._answers(queries, max_new_tokens, batch_size, quiet, scored=False)
        return [answer if isinstance(answer, CallError) else answer.text for answer in found]

    def scored_answers(
        self,
        queries: Sequence[Said],
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = MAX_BATCH,
    ) -> list[Answer | CallError]:
        """As `answers`, each with its raw score."""
        return self._answers(queries, max_new_tokens, batch_size, quiet=False, scored=True)

    def _answers(
        self,
        queries: Sequence[Said],
        max_new_tokens: int,
        batch_size: int,
        quiet: bool,
        scored: bool,
    ) -> list[Answer | CallError]:
        encoded = [self._prompt_or_error(query) for query in queries]
        fit = {at: prompt for at, prompt in enumerate(encoded) if isinstance(prompt, _Prompt)}
        places, prompts = list(fit), list(fit.values())
        found: dict[int, Answer | CallError] = {
            at: error for at, error in enumerate(encoded) if isinstance(error, CallError)
        }
        ids = [prompt.ids for prompt in prompts]
        hide = True if quiet else None
        with tqdm(total=len(fit), unit="query", mininterval=1.0, disable=hide) as progress:
            for members in equal_length_batches(ids, min(batch_size, MAX_BATCH)):
                batch = [prompts[index] for index in members]
                answers = self._complete(batch, max_new_tokens, scored)
                found |= {places[at]: answer for at, answer in zip(members, answers, strict=True)}
                progress.update(len(members))
        return [found[at] for at in range(len(queries))]

    def _prompt_or_error(self, query: Said) -> _Prompt | CallError:
        try:
            return self._prompt(query)
        except CallError as error:
            return error

    def predict(self, query: Said, max_new_tokens: int = MAX_NEW_TOKENS) -> Prediction:
        """The call for one query, with its confidence where the folder holds a calibration.

        A conversation is a list of messages, and a query that brings its own tools a mapping, see
        `supertiny.conversation.as_query`; here and below.

        Raises:
            CallError: what `encode` raises, or what `Answer.call` does.
        """
        scored = self.calibration is not None
        answer = self._complete([self._prompt(query)], max_new_tokens, scored)[0]
        if isinstance(answer, CallError):
            raise answer
        return self._prediction(answer, query)

    def predict_many(
        self,
        queries: Sequence[Said],
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = MAX_BATCH,
    ) -> list[Prediction | CallError]:
        """The call for each query, in order, or the error that `predict` would raise for it."""
        scored = self.calibration is not None
        answers = self._answers(queries, max_new_tokens, batch_size, quiet=True, scored=scored)
        return [self._prediction_or_error(*pair) for pair in zip(answers, queries, strict=True)]

    def _prediction_or_error(
        self, answer: Answer | CallError, query: Said
    ) -> Prediction | CallError:
        if isinstance(answer, CallError):
            return answer
        try:
            return self._prediction(answer, query)
        except CallError as error:
            return error

    def _prediction(self, answer: Answer, query: Said) -> Prediction:
        call = answer.call(self.task, query)
        if self.calibration is None or answer.score is None:
            return Prediction(call.name, call.arguments)
        return self.calibration.predict(call, answer.score)

    def stream(self, query: Said, max_new_tokens: int = MAX_NEW_TOKENS) -> Stream:
        """The answer to one query piece by piece, then its call (errors as `predict`)."""
        scored = self.calibration is not None
        prompt = self._prompt(query)
        return Stream(self, self._under_grammar(prompt, max_new_tokens, scored), prompt, query)

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length, without the end token; the tools are the task's.

        One of ``max_new_tokens`` tokens was stopped by the limit, every shorter one ended.

        Raises:
            ValueError: the prompts differ in length.
        """
        own = [_Prompt(list(ids), None, self.task, self.grammar) for ids in prompts]
        answers = self._complete(own, max_new_tokens, scored=False)
        return [answer.ids for answer in answers if isinstance(answer, Answer)]  # all of them

    def _complete(
        self, prompts: Sequence[_Prompt], max_new_tokens: int, scored: bool
    ) -> list[Answer | CallError]:
        # The grammar is asked afterwards, of the whole answer: one that it allows was allowed at
        # every step, and to ask at every step takes longer and leaves no room for drafts. Few need it.
        decoding = self._decoding(
            [prompt.ids for prompt in prompts], max_new_tokens, scored
        ).finish()
        return [
            self._mended(self._answer(decoding, row), prompt, max_new_tokens)
            for row, prompt in enumerate(prompts)
        ]

    def _decoding(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, scored: bool = False
    ) -> Decoding:
        # The engine's cache is rewound for all rows of a batch alike, so only one row has drafts.
        if self.drafts is not None and len(prompts) == 1:
            return Drafted(self.engine, prompts[0], max_new_tokens, self.drafts, scored)
        return Greedy(self.engine, prompts, max_new_tokens, scored=scored)

    def _mended(self, answer: Answer, prompt: _Prompt, max_new_tokens: int) -> Answer | CallError:
        """The answer if it is legal and made of the query's words, else one that the grammar of these
        words allows."""
        if self._may_stay(answer.text, prompt):
            return answer
        scored = answer.score is not None
        reason: CallError
        for posed in (self._quoting(prompt), prompt):
            try:
                return self._answer(self._under_grammar(posed, max_new_tokens, scored).finish())
            except CallError as error:
                reason = error
        return reason

    def _may_stay(self, answer: str, prompt: _Prompt) -> bool:
        if self.grammar is None:
            return True
        task = prompt.task
        try:
            call = task.parse_call(answer)
        except CallError:
            return False
        if task.render_call(call) != answer:  # not in the form trained in
            return False
        return prompt.query is None or not task.is_made_up(call, prompt.query)

    def _quoting(self, prompt: _Prompt) -> _Prompt:
        """The prompt with a grammar in which arguments that quote the query are runs of its words.

        Runs with a letter of several tokens, which the engine cannot be forced to write, are left out.
        """
        if prompt.query is None or not any(
            schema.get("x-quoted")
            for tool in prompt.task.tools.values()
            for schema in tool.properties.values()
        ):
            return prompt
        query = prompt.task.normalise(prompt.query)
        letters = {letter for letter in set(query) if self._is_token(letter)}
        runs = places(query, _LONGEST_QUOTE)
        said = [run for run in runs if run.isprintable() and letters.issuperset(run)]
        return replace(prompt, grammar=lark_grammar(prompt.task.tools, said))

    def _is_token(self, letter: str) -> bool:
        return len(self.tokenizer.encode(letter, add_special_tokens=False).ids) == 1

    def _under_grammar(self, prompt: _Prompt, max_new_tokens: int, scored: bool) -> Greedy:
        """Raises `CallError` where a query's own tools have schemas that nothing satisfies."""
        try:
            return Greedy(self.engine, [prompt.ids], max_new_tokens, prompt.grammar, scored)
        except RuntimeError as error:
            if prompt.task is self.task or "grammar" not in str(error):
                raise
            reason = str(error).splitlines()[0][:200]
            raise CallError(f"tools: no grammar can be made of them: {reason}") from None

    def _answer(self, decoding: Decoding, row: int = 0) -> Answer:
        ids = decoding.ids(row)
        score = raw_score(decoding.log_probabilities(row)) if decoding.scored else None
        return Answer(ids, self.decode(ids), len(ids) < decoding.limit, score)

    def generate_with_logits(
        self, prompt: Sequence[int], max_new_tokens: int
    ) -> tuple[list[int], np.ndarray]:
        """The greedy continuation of one prompt, no grammar, and what each token was chosen by.

        Returns:
            Token ids without the end token, and logits of shape (steps, vocabulary), fp32: one step
            a token, and one more for the end token where the limit did not come first.
        """
        generator = self.engine.generator(1, len(prompt) + max_new_tokens)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        rows = []
        while not generator.is_done():
            rows.append(last_logits(generator))
            generator.generate_next_token()
        answer = [int(token) for token in generator.get_sequence(0)][len(prompt) :]
        return self.until_end(answer), np.stack(rows)

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """Logits of the token after the prompt and after each token of an answer but the last.

        Returns:
            Shape (tokens of the answer, vocabulary), fp32.
        """
        generator = self.engine.generator(1, len(prompt) + len(answer) + 1)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        rows = [last_logits(generator)]
        for token in answer[:-1]:
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            rows.append(last_logits(generator))
        return np.stack(rows)

    def timed(self, query: Said, max_new_tokens: int = MAX_NEW_TOKENS) -> Timing:
        """Answer one query at batch 1 and say how long its phases took (errors as `encode`)."""
        start = time.perf_counter()
        prompt = self._prompt(query)
        before = time.perf_counter()
        decoding = self._decoding([prompt.ids], max_new_tokens)
        steps = iter(decoding)
        next(steps)
        first = time.perf_counter()
        early = len(decoding.ids())
        passes = sum(1 for _ in steps)
        last = time.perf_counter()
        answer = self._answer(decoding)
        self._mended(answer, prompt, max_new_tokens)
        end = time.perf_counter()
        late = len(answer.ids) + answer.ended - early if passes else 0
        return Timing(len(prompt.ids), first - before, late, last - first, end - start)


class Stream:
    """An answer that is being decoded: iterate for its pieces, then read ``prediction``.

    The pieces are text in the compact form of `supertiny.calls`. What has come at any time begins
    a legal call; all of it together is the answer. A character comes when it is whole.
    ``prediction`` is what `OnnxStudent.predict` gives: where the pieces quote what the query does not
    say, it says otherwise than they.
    """

    def __init__(self, student: OnnxStudent, greedy: Greedy, prompt: _Prompt, query: Said) -> None:
        self._student, self._greedy = student, greedy
        self._prompt, self._query = prompt, query
        self.prediction: Prediction | None = None

    def __iter__(self) -> Iterator[str]:
        sent = 0
        for _ in self._greedy:
            text = self._student.decode(self._greedy.ids()).rstrip("\ufffd")
            if len(text) > sent:
                yield text[sent:]
                sent = len(text)
        answer = self._student._answer(self._greedy)
        if len(answer.text) > sent:
            yield answer.text[sent:]
        final = self._student._mended(answer, self._prompt, self._greedy.limit)
        if isinstance(final, CallError):
            raise final
        self.prediction = self._student._prediction(final, self._query)


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most ``count`` items at even distances, the first one included, in order."""
    step = max(1.0, len(items) / count)
    return [items[int(at * step)] for at in range(min(count, len(items)))]
