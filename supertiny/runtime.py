"""The student as it ships: ONNX Runtime GenAI on CPU, greedy, without torch or a checkout.

Answers are decoded under the grammar of the task's legal calls, so no other can be written; tokens
that the grammar forces are not computed.

The tokenizer is the `tokenizers` package reading the model folder's tokenizer.json, the same code
as in training: the tokenizer built into ONNX Runtime GenAI splits digits outside ASCII and signs
such as "½" into other tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from supertiny.calls import ToolCall
from supertiny.checksums import SUMS, check_sums
from supertiny.errors import CallError, UserError
from supertiny.grammar import lark_grammar
from supertiny.io import read_json
from supertiny.task import load_task_folder

MAX_PROMPT_TOKENS = 256  # of the query's own text; a command is about 20
MAX_NEW_TOKENS = 64
MAX_FORCED_TOKENS = 64  # that a grammar may append in one step, past the limit of an answer
MAX_BATCH = 32  # rows; ONNX Runtime GenAI takes no more
DATA_FILE = "model.onnx.data"
MODEL_FILES = ("genai_config.json", "model.onnx", DATA_FILE, "tokenizer.json")
TASK_FOLDER = "task"
TASK_FILES = ("task.yaml", "tools.json")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Timing:
    """One query at batch 1: tokens and seconds of its two phases, and of all of it."""

    prompt_tokens: int
    prefill_s: float  # prompt in, first token chosen
    decode_tokens: int  # tokens after the first
    decode_s: float
    total_s: float  # from query text to answer text


class OnnxStudent:
    """A model folder made by the stages `export` and `quantize`.

    Args:
        folder: holds the files `MODEL_FILES` and the task's in the subfolder ``task``.
        threads: CPU threads of one forward pass; None leaves ONNX Runtime's own choice.
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
        model = read_json(self.folder / "genai_config.json")["model"]
        ends = model["eos_token_id"]
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.start_id: int = model["bos_token_id"]
        # The signatures, where a task shows them, stand before every query and are no user's fault.
        empty = self.tokenizer.encode(self.task.render_prompt(""), add_special_tokens=False)
        self.max_prompt_tokens = MAX_PROMPT_TOKENS + len(empty.ids)
        self._genai, self._model = _load(self.folder, threads)

    def encode(self, query: str) -> list[int]:
        """Token ids of the prompt of a query, the start token first.

        Raises:
            CallError: blank, no valid Unicode text, or more than `max_prompt_tokens` tokens.
        """
        if not query.strip():
            raise CallError("query is blank")
        if any("\ud800" <= letter <= "\udfff" for letter in query):
            raise CallError("query is no valid Unicode text (a lone surrogate)")
        text = self.task.render_prompt(query)
        ids = [self.start_id, *self.tokenizer.encode(text, add_special_tokens=False).ids]
        if len(ids) > self.max_prompt_tokens:
            raise CallError(
                f"query too long: found {len(ids)} tokens, at most {self.max_prompt_tokens} "
                f"are allowed; it starts {query[:40]!r}"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The raw answer text of token ids without the end token."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def answers(
        self,
        queries: Sequence[str],
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 32,
        quiet: bool = False,
    ) -> list[str | CallError]:
        """The raw greedy answer to each query, in order, without the end token.

        A query that `encode` refuses has its error for an answer.
        A ``batch_size`` over `MAX_BATCH` is taken as that.
        Progress goes to stderr, unless ``quiet`` or where that is no terminal.
        Only prompts of the same length share a batch, so nothing is ever padded: the graph picks
        the logits of the last column, and its attention takes no account of padding before it.
        """
        encoded = [self._encode_or_error(query) for query in queries]
        fit = {at: ids for at, ids in enumerate(encoded) if not isinstance(ids, CallError)}
        places, prompts = list(fit), list(fit.values())
        found: list[str | CallError] = [
            ids if isinstance(ids, CallError) else "" for ids in encoded
        ]
        hide = True if quiet else None
        with tqdm(total=len(fit), unit="query", mininterval=1.0, disable=hide) as progress:
            for members in equal_length_batches(prompts, min(batch_size, MAX_BATCH)):
                rows = self.generate([prompts[index] for index in members], max_new_tokens)
                for index, row in zip(members, rows, strict=True):
                    found[places[index]] = self.decode(row)
                progress.update(len(members))
        return found

    def _encode_or_error(self, query: str) -> list[int] | CallError:
        try:
            return self.encode(query)
        except CallError as error:
            return error

    def predict(self, query: str, max_new_tokens: int = MAX_NEW_TOKENS) -> ToolCall:
        """The call for one query.

        Raises:
            CallError: what `encode` raises, or the answer is no legal call of the task.
        """
        row = self.generate([self.encode(query)], max_new_tokens)[0]
        return self.task.parse_call(self.decode(row), query)

    def predict_many(
        self,
        queries: Sequence[str],
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 32,
    ) -> list[ToolCall | CallError]:
        """The call for each query, in order, or the error that `predict` would raise for it."""
        answers = self.answers(queries, max_new_tokens, batch_size, True)
        return [self._parsed(*pair) for pair in zip(answers, queries, strict=True)]

    def _parsed(self, answer: str | CallError, query: str) -> ToolCall | CallError:
        if isinstance(answer, CallError):
            return answer
        try:
            return self.task.parse_call(answer, query)
        except CallError as error:
            return error

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length, without the end token.

        One of ``max_new_tokens`` tokens was stopped by the limit, every shorter one ended.

        Raises:
            ValueError: the prompts differ in length.
        """
        guided = self.grammar if len(prompts) == 1 else None
        rows = self._greedy(prompts, max_new_tokens, guided)
        if self.grammar == guided:
            return rows
        # ONNX Runtime GenAI cannot guide a batch some of whose rows end before others. Few need it:
        # an answer that the grammar allows as a whole was allowed at every step.
        return [
            row if self._is_legal(self.decode(row)) else self.generate([prompt], max_new_tokens)[0]
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def _is_legal(self, answer: str) -> bool:
        """Whether the grammar allows an answer: a legal call in the form it is trained in."""
        try:
            return self.task.render_call(self.task.parse_call(answer)) == answer
        except CallError:
            return False

    def _greedy(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, grammar: str | None
    ) -> list[list[int]]:
        width = _common_length(prompts)
        generator = self._generator(len(prompts), width + max_new_tokens, grammar)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        while not generator.is_done() and generator.token_count() < width + max_new_tokens:
            generator.generate_next_token()
        rows = [self._answer_ids(generator, row, width) for row in range(len(prompts))]
        return [row[:max_new_tokens] for row in rows]

    def generate_with_logits(
        self, prompt: Sequence[int], max_new_tokens: int
    ) -> tuple[list[int], np.ndarray]:
        """The greedy continuation of one prompt, no grammar, and what each token was chosen by.

        Returns:
            Token ids without the end token, and logits of shape (steps, vocabulary), fp32: one step
            a token, and one more for the end token where the limit did not come first.
        """
        generator = self._generator(1, len(prompt) + max_new_tokens)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        rows = []
        while not generator.is_done():
            rows.append(_last_logits(generator))
            generator.generate_next_token()
        return self._answer_ids(generator, 0, len(prompt)), np.stack(rows)

    def logits(self, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """Logits of the token after the prompt and after each token of an answer but the last.

        Returns:
            Shape (tokens of the answer, vocabulary), fp32.
        """
        generator = self._generator(1, len(prompt) + len(answer) + 1)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        rows = [_last_logits(generator)]
        for token in answer[:-1]:
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            rows.append(_last_logits(generator))
        return np.stack(rows)

    def timed(self, query: str, max_new_tokens: int = MAX_NEW_TOKENS) -> Timing:
        """Answer one query at batch 1 and say how long its phases took (errors as `encode`)."""
        start = time.perf_counter()
        prompt = self.encode(query)
        before = time.perf_counter()
        generator = self._generator(1, len(prompt) + max_new_tokens, self.grammar)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        tokens = 0
        while not generator.is_done() and generator.token_count() < len(prompt) + max_new_tokens:
            generator.generate_next_token()
            tokens += 1
        last = time.perf_counter()
        self.decode(self._answer_ids(generator, 0, len(prompt)))
        end = time.perf_counter()
        return Timing(len(prompt), first - before, tokens, last - first, end - start)

    def _generator(self, batch_size: int, max_length: int, grammar: str | None = None) -> Any:
        params = self._genai.GeneratorParams(self._model)
        # Room for what is forced at the very end: the engine fails on tokens over the length.
        length = max_length + (MAX_FORCED_TOKENS if grammar is not None else 0)
        params.set_search_options(batch_size=batch_size, max_length=length, do_sample=False)
        if grammar is not None:
            params.set_guidance("lark_grammar", grammar, True)  # forced tokens are not computed
        return self._genai.Generator(self._model, params)

    def _answer_ids(self, generator: Any, row: int, width: int) -> list[int]:
        # A row that ends before its batch does is filled up with the padding token.
        return self.until_end([int(token) for token in generator.get_sequence(row)][width:])

    def until_end(self, ids: list[int]) -> list[int]:
        """Token ids up to the first end token, without it."""
        return next((ids[:at] for at, token in enumerate(ids) if token in self.end_ids), ids)


def _last_logits(generator: Any) -> np.ndarray:
    return np.array(generator.get_logits(), dtype=np.float32).reshape(-1)


def size_mb(folder: Path) -> float:
    """Megabytes (10**6 bytes) of all files of a model folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most ``count`` items at even distances, the first one included, in order."""
    step = max(1.0, len(items) / count)
    return [items[int(at * step)] for at in range(min(count, len(items)))]


def check_folder(folder: Path) -> None:
    """Raises `UserError` when a file that `OnnxStudent` needs is missing from a model folder, or
    is read from outside of it."""
    needed = [*MODEL_FILES, *(f"{TASK_FOLDER}/{name}" for name in TASK_FILES)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        state = f"lacks {', '.join(missing)}" if folder.is_dir() else "not found"
        raise UserError(f"{folder}: {state}; make it with `dvc repro` or fetch it with `dvc pull`")
    strange = sorted(_weight_files(folder / "model.onnx") - {DATA_FILE})
    if strange:
        raise UserError(
            f"{folder}/model.onnx: reads weights from {', '.join(strange)}; only {DATA_FILE} beside "
            "it is allowed, and nothing was loaded"
        )


def _weight_files(graph: Path) -> set[str]:
    """The files beside an ONNX graph that it names as holding weights."""
    import onnx  # slow to load

    model = onnx.load(graph, load_external_data=False)
    return {
        entry.value
        for tensor in _tensors([model.graph, *model.functions])
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(graphs: Iterable[Any]) -> Iterator[Any]:
    """Every tensor of ONNX graphs and functions: weights, constants, and those of inner graphs."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                inner = [attribute.g] if attribute.HasField("g") else []
                yield from _tensors([*inner, *attribute.graphs])


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


def _load(folder: Path, threads: int | None) -> tuple[Any, Any]:
    import onnxruntime_genai  # slow to load, and not needed to read a task or check a folder

    onnxruntime_genai.disable_telemetry_events()
    config = onnxruntime_genai.Config(str(folder))
    if threads is not None:
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
    return onnxruntime_genai, onnxruntime_genai.Model(config)
