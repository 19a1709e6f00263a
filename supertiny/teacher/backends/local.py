"""A model of `transformers` in this process: batched, with the shared start of prompts computed once.

Questions that wait at the same moment make a batch. A row ends as soon as its JSON object is complete,
so nothing is generated that would be thrown away. Greedy where the temperature is 0; else each row draws
from a generator of its own, seeded by its key, so a row's answer does not depend on its neighbours'
draws (its logits may differ in the last bits with the batch's shape).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GgufConfig

from supertiny.errors import UserError
from supertiny.precision import use_bf16
from supertiny.teacher import prefix
from supertiny.teacher.functions import balanced_object
from supertiny.teacher.messages import Ask, Response

_GATHER_S = 0.05  # the first question of a batch waits this long for others
_LIKELIEST = 256  # top_p nearly always ends among them; to sort a whole vocabulary takes 40 ms
_LEAST_PREFIX = 32  # tokens; a shorter common start is not worth keeping


class LocalBackend:
    """One model, loaded at the first question.

    Args:
        path: a folder with config, tokenizer and safetensors, or a .gguf file.
        precision: ``bf16``, ``fp32``, or ``auto``: bf16 where the hardware multiplies it.
    """

    def __init__(self, path: str, precision: str, batch_size: int, threads: int) -> None:
        self.path = Path(path)
        self.precision = precision
        self.batch_size = batch_size
        self.threads = threads
        self._waiting: list[tuple[Ask, asyncio.Future[Response]]] = []
        self._task: asyncio.Task[None] | None = None
        self._model: LocalModel | None = None

    def check(self, missing: Sequence[Ask]) -> None:
        """Raises `UserError` if there is no model to ask."""
        is_file = self.path.suffix == ".gguf" and self.path.is_file()
        if missing and not is_file and not (self.path / "config.json").is_file():
            raise UserError(
                f"teacher.path: found {str(self.path)!r}, expected a folder with config.json and "
                "safetensors, or a .gguf file"
            )

    async def complete(self, ask: Ask) -> Response:
        """See `Backend.complete`; never fails, but waits for a place in a batch."""
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Drop the model."""
        self._model = None

    async def _serve(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            # A batch shares its system prompt, which is computed once, and pads to the longest.
            self._waiting.sort(key=lambda waiting: _system_and_length(waiting[0]))
            systems = [ask.messages[0]["content"] for ask, _ in self._waiting]
            count = min(systems.count(systems[0]), self.batch_size)
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            asks = [ask for ask, _ in batch]
            try:
                responses = await asyncio.to_thread(self._generate, asks)
            except Exception as error:  # ours: every waiter must hear of it, or they wait for ever
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), response in zip(batch, responses, strict=True):
                if not future.done():
                    future.set_result(response)

    def _generate(self, asks: list[Ask]) -> list[Response]:
        if self._model is None:
            self._model = LocalModel(self.path, self.precision, self.threads)
        return self._model.answers(asks)


class LocalModel:
    """Weights, tokenizer, and the keys and values of the last shared prefix."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder, options = path, {"use_safetensors": True}
        tokenizer_options: dict[str, Any] = {}
        if path.suffix == ".gguf":
            folder = path.parent
            tokenizer_options = {"gguf_file": path.name}
            options = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}  # type: ignore[dict-item]
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), **safe, **tokenizer_options
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.bfloat16 if use_bf16(precision) else torch.float32,
            attn_implementation=prefix.NAME,
            **safe,
            **options,
        )
        self.model = model.to(self.device).eval()
        self._ends = _end_tokens(self.tokenizer, self.model)
        self._prefix_ids: list[int] = []
        self._prefix: prefix.Prefix = []
        self.prefix_tokens_computed = 0

    @torch.inference_mode()
    def answers(self, asks: Sequence[Ask]) -> list[Response]:
        """A chat completion for each question, in order."""
        starts = [answer_start(ask) for ask in asks]
        texts = [chat_text(self.tokenizer, ask) for ask in asks]
        prompts = [text + start for text, start in zip(texts, starts, strict=True)]
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
        self._share_prefix(ids)
        own = [row[len(self._prefix_ids) :] for row in ids]
        found = self._decode(own, asks, starts)
        return [
            _completion(text, finish, len(row), made)
            for (text, finish, made), row in zip(found, ids, strict=True)
        ]

    def _share_prefix(self, ids: list[list[int]]) -> None:
        """Keep the keys and values of what all rows start with; what is still right is not recomputed.

        The kept prefix is cut back to what this batch shares with it, so after two batches it ends
        where the questions begin. One token at least stays with each row: its logits are needed.
        """
        common = common_prefix([row[:-1] for row in ids])
        kept = common_prefix([self._prefix_ids, common])
        if len(kept) >= max(_LEAST_PREFIX, 0.8 * len(common)):
            self._prefix_ids = kept
            self._prefix = [(k[:, : len(kept)], v[:, : len(kept)]) for k, v in self._prefix]
            return
        self._prefix_ids, self._prefix = [], []
        if len(common) < _LEAST_PREFIX:
            return
        cache = DynamicCache()
        visible = torch.ones(1, len(common), dtype=torch.bool)
        self._forward(torch.tensor([common]), visible, cache)
        layers: list[Any] = cache.layers
        self._prefix = [(layer.keys[0], layer.values[0]) for layer in layers]
        self._prefix_ids = common
        self.prefix_tokens_computed += len(common)

    def _decode(
        self, own: list[list[int]], asks: Sequence[Ask], starts: list[str]
    ) -> list[tuple[str, str, int]]:
        """Text, finish reason and count of new tokens of each row; rows leave the batch when done."""
        width = max(map(len, own))
        gaps = [width - len(row) for row in own]
        ids = torch.tensor([[0] * gap + row for gap, row in zip(gaps, own, strict=True)])
        visible = torch.tensor([[False] * gap + [True] * (width - gap) for gap in gaps])
        rows: list[list[int]] = [[] for _ in own]
        finished: dict[int, tuple[str, str, int]] = {}
        draws = [torch.Generator().manual_seed(ask.seed) for ask in asks]
        alive = list(range(len(own)))
        cache = DynamicCache()
        while alive:
            logits = self._forward(ids, visible, cache)
            keep = []
            for at, row in enumerate(alive):
                rows[row].append(_pick(logits[at], asks[row].request, draws[row]))
                end = self._end(rows[row], starts[row], asks[row].request["max_tokens"])
                if end is None:
                    keep.append(at)
                else:
                    finished[row] = (*end, len(rows[row]))
            if len(keep) < len(alive):
                alive = [alive[at] for at in keep]
                if alive:
                    cache.batch_select_indices(torch.tensor(keep, device=self.device))
                    visible = visible[keep]
            ids = torch.tensor([[rows[row][-1]] for row in alive])
            visible = torch.nn.functional.pad(visible, (0, 1), value=True)
        return [finished[row] for row in range(len(own))]

    def _forward(
        self, ids: torch.Tensor, visible: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits of the last position in fp32, (batch, vocabulary).

        Args:
            ids: new tokens, (batch, new).
            visible: True where the row has a token of its own, (batch, cached + new).
        """
        new, total = ids.shape[1], visible.shape[1]
        positions = (visible.cumsum(1) - 1).clamp(min=0)[:, -new:] + len(self._prefix_ids)
        causal = torch.ones(new, total, dtype=torch.bool).tril(total - new)
        hidden = ~(causal & visible[:, None, :])[:, None]
        # The lowest finite number and not -inf: a padding position sees nothing at all.
        dtype = torch.float32 if self._prefix else self.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        logits: torch.Tensor = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            teacher_prefix=self._prefix or None,
        ).logits
        return logits[:, -1].float().cpu()

    def _end(self, row: list[int], start: str, most: int) -> tuple[str, str] | None:
        """Text and finish reason if the row has come to its end."""
        if row[-1] in self._ends:
            return start + self._text(row[:-1]), "stop"
        # A brace can end a token of several letters; only then the whole text is looked at.
        if "}" in self._text(row[-1:]):
            whole = balanced_object(start + self._text(row))
            if whole is not None:
                return whole, "stop"
        return (start + self._text(row), "length") if len(row) >= most else None

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


def _end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*found, tokenizer.eos_token_id] if token is not None)


def chat_text(tokenizer: Any, ask: Ask) -> str:
    """The question as the model's chat template has it, the function's schema in the system part."""
    messages = [dict(message) for message in ask.messages]
    messages[0]["content"] += "\n\n" + _instruction(ask.request["function"])
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _instruction(function: dict[str, Any]) -> str:
    schema = orjson.dumps(function["parameters"].get("properties", {})).decode()
    return (
        f"Answer through the function {function['name']} ({function['description'].rstrip('.')}): "
        f"one JSON object with its arguments and nothing else. Arguments: {schema}"
    )


def _system_and_length(ask: Ask) -> tuple[str, int]:
    return ask.messages[0]["content"], sum(len(message["content"]) for message in ask.messages)


def answer_start(ask: Ask) -> str:
    """The part of the answer that can only be as it is: the first required argument's name, and the
    quote that a string begins with (without it, small models copy the argument's schema)."""
    parameters = ask.request["function"]["parameters"]
    required = parameters.get("required", ())
    if not required:
        return "{"
    is_string = parameters["properties"].get(required[0], {}).get("type") == "string"
    return f'{{"{required[0]}":' + (' "' if is_string else "")


def _pick(logits: torch.Tensor, request: dict[str, Any], draw: torch.Generator) -> int:
    if request["temperature"] == 0:
        return int(logits.argmax())
    scaled = logits / request["temperature"]
    most = min(_LIKELIEST, len(scaled))
    ranked, order = scaled.topk(most)
    ranked = (ranked - scaled.logsumexp(0)).exp()
    if most < len(scaled) and ranked.sum() < request["top_p"]:
        ranked, order = scaled.softmax(0).sort(descending=True)
    # A token is kept while those before it have not reached top_p, so the likeliest always is.
    ranked[ranked.cumsum(-1) - ranked >= request["top_p"]] = 0
    return int(order[torch.multinomial(ranked, 1, generator=draw)])


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with alike."""
    shortest = min(rows, key=len)
    for at, token in enumerate(shortest):
        if any(row[at] != token for row in rows):
            return shortest[:at]
    return shortest


def _completion(text: str, finish: str, prompt_tokens: int, made: int) -> Response:
    return {
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": made},
    }
