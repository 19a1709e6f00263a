"""One inference engine in a process of its own: token ids in, greedy token ids and seconds out.

Every engine gets the same ids, so that no tokenizer is measured, and writes greedily until the end
token. `benchmarks/side_by_side.py` starts one process an engine and speaks JSON lines with it:

    python benchmarks/engines.py '{"engine": "supertiny", "model": "models/onnx/int4", ...}'

Line in: {"prompts": [[id, ...], ...], "most": most new tokens}.
Line out: {"answers": [[id, ...] or text, ...], "seconds": wall time, "peak_rss_mib": of the process so far}.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

Ids = list[int]
_MAX_ROWS = 32
_BATCH = 8192  # tokens of one call, all rows together
_CELLS = 128  # of the cache, a row: longer than any prompt of the benchmark and its answer


class Engine(Protocol):
    """Anything that answers prompts greedily."""

    def answers(self, prompts: list[Ids], most: int) -> list[Ids] | list[str]:
        """Continuations of at most ``most`` tokens, without the end token: ids, or text."""


class Supertiny:
    """This project's runtime."""

    def __init__(self, model: str, threads: int, grammar: str | None, ends: Sequence[int]) -> None:
        from supertiny.runtime import OnnxStudent

        self._student = OnnxStudent(model, threads=threads, constrained=grammar is not None)

    def answers(self, prompts: list[Ids], most: int) -> list[Ids]:
        from supertiny.decoding import equal_length_batches

        found: dict[int, Ids] = {}
        for members in equal_length_batches(prompts, _MAX_ROWS):
            batch = self._student.generate([prompts[at] for at in members], most)
            found |= dict(zip(members, batch, strict=True))
        return [found[at] for at in range(len(prompts))]


class Transformers:
    """Transformers' own generate, fp32, rows padded on the left; it has no grammar."""

    def __init__(self, model: str, threads: int, grammar: str | None, ends: Sequence[int]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._torch, self._end = torch, ends[0]
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def answers(self, prompts: list[Ids], most: int) -> list[Ids]:
        width = max(map(len, prompts))
        padded = [[self._end] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        with self._torch.inference_mode():
            out = self._model.generate(
                input_ids=self._torch.tensor(padded),
                attention_mask=self._torch.tensor(mask),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=self._end,
                pad_token_id=self._end,
            )
        return [_until(row[width:].tolist(), [self._end]) for row in out]


class LlamaCpp:
    """llama.cpp through its C interface, as the package llama-cpp-python builds it from source.

    Under a grammar the likeliest token is tried first and the whole vocabulary is searched only
    where that one is not allowed, as llama.cpp's own tools do.

    Args:
        shared: the tokens that all prompts begin with alike; they are computed once.
    """

    def __init__(
        self,
        model: str,
        threads: int,
        grammar: str | None,
        ends: Sequence[int],
        cells: int = _MAX_ROWS * _CELLS,
        shared: Sequence[int] = (),
    ) -> None:
        import llama_cpp as lib

        self._quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._lib, self._ends, self._shared = lib, frozenset(ends), list(shared)
        self._weights = lib.llama_model_load_from_file(
            model.encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = cells, _BATCH, 512
        params.n_seq_max, params.kv_unified = _MAX_ROWS, True
        params.n_threads = params.n_threads_batch = threads
        self._context = lib.llama_init_from_model(self._weights, params)
        self._memory = lib.llama_get_memory(self._context)
        self._vocab = lib.llama_model_get_vocab(self._weights)
        self._size = lib.llama_vocab_n_tokens(self._vocab)
        self._batch = lib.llama_batch_init(_BATCH, 0, 1)
        self._grammar = grammar
        if self._shared:
            self._forward([(0, at, token, False) for at, token in enumerate(self._shared)])

    def answers(self, prompts: list[Ids], most: int) -> list[Ids]:
        lib, start = self._lib, len(self._shared)
        for row in range(len(prompts)):
            lib.llama_memory_seq_rm(self._memory, row, start if row == 0 else 0, -1)
            if start and row:
                lib.llama_memory_seq_cp(self._memory, 0, row, 0, start)
        samplers = [self._sampler() for _ in prompts]
        found: list[Ids] = [[] for _ in prompts]
        lengths = [start] * len(prompts)
        waiting = {row: ids[start:] for row, ids in enumerate(prompts)}
        while waiting:
            cells: list[tuple[int, int, int, bool]] = []
            last: dict[int, int] = {}
            for row, tokens in waiting.items():
                for token in tokens:
                    cells.append((row, lengths[row], token, False))
                    lengths[row] += 1
                cells[-1] = (*cells[-1][:3], True)
                last[row] = len(cells) - 1
            self._forward(cells)
            waiting = {}
            for row, at in last.items():
                token = self._choose(samplers[row], at)
                if token not in self._ends:
                    found[row].append(token)
                    if len(found[row]) < most:
                        waiting[row] = [token]
        for sampler in samplers:
            if sampler is not None:
                lib.llama_sampler_free(sampler)
        return found

    def _forward(self, cells: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(cells)
        for at, (row, position, token, wanted) in enumerate(cells):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = row, wanted
        if self._lib.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def _logits(self, at: int) -> Any:
        pointer = self._lib.llama_get_logits_ith(self._context, at)
        return np.ctypeslib.as_array(pointer, shape=(self._size,))

    def _choose(self, sampler: Any, at: int) -> int:
        logits = self._logits(at)
        best = int(logits.argmax())
        return best if sampler is None else self._guided(sampler, logits, best)

    def _sampler(self) -> Any:
        if self._grammar is None:
            return None
        return self._lib.llama_sampler_init_grammar(self._vocab, self._grammar.encode(), b"root")

    def _guided(self, sampler: Any, logits: Any, best: int) -> int:
        allowed = self._allowed(sampler, [best], logits)
        if not np.isfinite(allowed[0]):
            allowed = self._allowed(sampler, range(self._size), logits)
            best = int(allowed.argmax())
        self._lib.llama_sampler_accept(sampler, best)
        return best

    def _allowed(self, sampler: Any, tokens: Sequence[int], logits: Any) -> Any:
        data = (self._lib.llama_token_data * len(tokens))()
        view = np.frombuffer(data, dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
        view["id"], view["logit"] = tokens, logits[list(tokens)]
        array = self._lib.llama_token_data_array(data, len(tokens), -1, False)
        self._lib.llama_sampler_apply(sampler, ctypes.byref(array))
        return view["logit"].copy()


class LlamaServer:
    """llama.cpp's server in this process, as the wheel xllamacpp has it: slots, batched on the fly."""

    def __init__(self, model: str, threads: int, grammar: str | None, ends: Sequence[int]) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx, params.n_parallel, params.warmup = _MAX_ROWS * _CELLS, _MAX_ROWS, False
        params.kv_unified = True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(params)
        self._grammar = grammar
        self._pool = ThreadPoolExecutor(_MAX_ROWS)

    def answers(self, prompts: list[Ids], most: int) -> list[str]:
        return list(self._pool.map(lambda ids: self._answer(ids, most), prompts))

    def _answer(self, ids: Ids, most: int) -> str:
        asked = {
            "prompt": ids, "n_predict": most, "temperature": 0, "samplers": ["temperature"],
            "cache_prompt": False,
        }  # fmt: skip
        if self._grammar is not None:
            asked["grammar"] = self._grammar
        text: str = self._server.handle_completions(asked)["choices"][0]["text"]
        return text


class OpenVino:
    """OpenVINO GenAI, with continuous batching."""

    def __init__(self, model: str, threads: int, grammar: str | None, ends: Sequence[int]) -> None:
        import openvino_genai

        self._ends = ends
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        config = openvino_genai.GenerationConfig()
        config.do_sample, config.eos_token_id = False, ends[0]
        config.stop_token_ids = set(ends)
        if grammar is not None:
            structured = openvino_genai.StructuredOutputConfig()
            structured.grammar = grammar
            config.structured_output_config = structured
        self._config = config

    def answers(self, prompts: list[Ids], most: int) -> list[Ids]:
        import openvino

        self._config.max_new_tokens = most
        tensors = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
        results = self._pipeline.generate(tensors, [self._config] * len(prompts))
        return [_until(list(result.m_generation_ids[0]), self._ends) for result in results]


ENGINES: dict[str, Callable[..., Engine]] = {
    "supertiny": Supertiny,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
    "llama.cpp server": LlamaServer,
    "openvino": OpenVino,
}


def _until(ids: Ids, ends: Sequence[int]) -> Ids:
    return next((ids[:at] for at, token in enumerate(ids) if token in ends), ids)


def main() -> None:
    from supertiny.benchmark import peak_rss_mib

    settings = json.loads(sys.argv[1])
    # Engines print what they like; the protocol has the real standard output to itself.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = ENGINES[settings.pop("engine")](**settings)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.perf_counter()
        answers = engine.answers(asked["prompts"], asked["most"])
        seconds = time.perf_counter() - start
        reply = {"answers": answers, "seconds": seconds, "peak_rss_mib": peak_rss_mib()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
