"""A student as PyTorch weights: batched greedy answers on CPU or GPU.

An untrained model may be asked with examples before each query (few-shot). Their keys and values
are computed once and never copied: every row of a batch attends to the one shared prefix, and the
two partial softmaxes are merged (the idea of Hydragen, arXiv 2402.05099).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from supertiny.calls import NO_CALL, call_from_json
from supertiny.conversation import Said
from supertiny.precision import use_bf16
from supertiny.task import Task

SEPARATOR = "\n\n"  # stands between examples: no query and no answer holds a blank line
_ATTENTION = "supertiny_shared_prefix"
_BLOCK_ROWS = 128
_Prefix = list[tuple[torch.Tensor, torch.Tensor]]  # per layer: keys, values, (kv heads, P, width)


class TorchStudent:
    """A causal LM of `transformers` that answers a task's queries greedily.

    Args:
        folder: config, tokenizer and safetensors weights.
        threads: CPU threads for this whole process; None leaves torch's own choice.
        examples: rows with ``query`` and ``call`` to show before each query, for a model that was
            not trained for the task; it then also gets the tools' signatures.
        precision: of the weights and all products: fp32, bf16, or auto for bf16 where it is fast.
    """

    def __init__(
        self,
        folder: Path | str,
        task: Task,
        threads: int | None = None,
        examples: Sequence[Mapping[str, Any]] = (),
        precision: str = "fp32",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.task = task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), **safe)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.bfloat16 if use_bf16(precision) else torch.float32,
            use_safetensors=True,
            attn_implementation=_ATTENTION,
            **safe,
        )
        self.model = model.to(self.device).eval()
        self.few_shot = bool(examples)
        self.prefix_text = few_shot_text(task, examples) if examples else ""
        self.prefix: _Prefix | None = None
        self.prefix_length = 0

    def prompt(self, asked: Said) -> str:
        """What stands after the start token and the shared prefix."""
        task = self.task.of(asked)
        query = task.as_query(asked)
        # With examples the task's signatures are in the prefix already, whatever its prompt form.
        if self.few_shot and task.tools is self.task.tools:
            return f" {task.normalise(query)}\n"
        return task.render_prompt(query)

    @torch.inference_mode()
    def answers(self, queries: Sequence[Said], max_new_tokens: int, batch_size: int) -> list[str]:
        """The raw answer to each query, in order, without the end token.

        Batches hold prompts of similar length; a row leaves its batch at the end token or after
        ``max_new_tokens``. With examples it also leaves at the separator, and once its answer can
        no longer be a legal call: an untrained model seldom stops by itself.
        """
        self._compute_prefix()
        start = "" if self.few_shot else self.tokenizer.bos_token
        prompts = [self._encode(start + self.prompt(query)) for query in queries]
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        found: dict[int, str] = {}
        with tqdm(total=len(prompts), unit="query", mininterval=1.0, disable=None) as progress:
            for at in range(0, len(order), batch_size):
                members = order[at : at + batch_size]
                tasks = [self.task.of(queries[i]) for i in members]
                batch = [prompts[i] for i in members]
                rows = self._generate(batch, tasks, max_new_tokens, progress)
                found.update(zip(members, rows, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _compute_prefix(self) -> None:
        if not self.few_shot or self.prefix is not None:
            return
        ids = torch.tensor([self._encode(self.tokenizer.bos_token + self.prefix_text)])
        cache = DynamicCache()
        visible = torch.ones(ids.shape, dtype=torch.bool)
        self._forward(ids, visible, cache, 0)
        layers: list[Any] = cache.layers
        self.prefix = [(layer.keys[0], layer.values[0]) for layer in layers]
        self.prefix_length = ids.shape[1]

    def _generate(
        self, prompts: list[list[int]], tasks: list[Task], max_new_tokens: int, progress: Any
    ) -> list[str]:
        """Answers to one batch of token rows, padded on the left to the longest."""
        width = max(map(len, prompts))
        end = self.tokenizer.eos_token_id
        gaps = [width - len(row) for row in prompts]
        ids = torch.tensor([[end] * gap + row for gap, row in zip(gaps, prompts, strict=True)])
        visible = torch.tensor([[False] * gap + [True] * (width - gap) for gap in gaps])
        rows: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        cache = DynamicCache()
        while alive:
            chosen = self._forward(ids, visible, cache, self.prefix_length)
            for row, token in zip(alive, chosen, strict=True):
                rows[row].append(token)
            keep = [
                at for at, row in enumerate(alive)
                if len(rows[row]) < max_new_tokens and not self._ended(rows[row], tasks[row])
            ]  # fmt: skip
            progress.update(len(alive) - len(keep))
            if len(keep) < len(alive):
                alive = [alive[at] for at in keep]
                if alive:
                    cache.batch_select_indices(torch.tensor(keep, device=self.device))
                    visible = visible[keep]
            ids = torch.tensor([[rows[row][-1]] for row in alive])
            visible = torch.nn.functional.pad(visible, (0, 1), value=True)
        return [self._text(row) for row in rows]

    def _ended(self, row: list[int], task: Task) -> bool:
        if row[-1] == self.tokenizer.eos_token_id:
            return True
        if not self.few_shot:
            return False
        text = self._decode(row)
        return SEPARATOR in text or not task.may_become_call(text)

    def _text(self, row: list[int]) -> str:
        text = self._decode(row[:-1] if row[-1] == self.tokenizer.eos_token_id else row)
        return text.split(SEPARATOR)[0] if self.few_shot else text

    def _decode(self, row: list[int]) -> str:
        text: Any = self.tokenizer.decode(row, clean_up_tokenization_spaces=False)
        return text

    def next_logits(
        self, ids: torch.Tensor, visible: torch.Tensor, cache: DynamicCache, offset: int = 0
    ) -> torch.Tensor:
        """Logits of each row's next token, shape (batch, vocabulary), fp32; the cache grows by ``ids``.

        Args:
            ids: new tokens, (batch, new).
            visible: True where the row has a token of its own, (batch, cached + new).
            offset: tokens of the shared prefix, which all come before the row's own.
        """
        new, total = ids.shape[1], visible.shape[1]
        positions = (visible.cumsum(1) - 1).clamp(min=0)[:, -new:] + offset
        causal = torch.ones(new, total, dtype=torch.bool).tril(total - new)
        hidden = ~(causal & visible[:, None, :])[:, None]
        # The lowest finite number and not -inf: a padding position sees nothing at all.
        dtype = self.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        logits: torch.Tensor = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            shared_prefix=self.prefix if offset else None,
        ).logits
        return logits[:, -1].float()

    def _forward(
        self, ids: torch.Tensor, visible: torch.Tensor, cache: DynamicCache, offset: int
    ) -> list[int]:
        """Greedy next token of each row; arguments as of `next_logits`."""
        return self.next_logits(ids, visible, cache, offset).argmax(-1).tolist()


def _shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    shared_prefix: _Prefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the shared prefix and the row's own tokens.

    Shapes: query (batch, heads, new, width), key and value (batch, kv heads, own, width), mask
    (batch, 1, new, own), result (batch, new, heads, width).
    """
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    assert attention_mask is not None
    keys, values = shared_prefix[module.layer_idx]  # type: ignore[index]
    batch, heads, new, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    grouped = query.reshape(batch, kv_heads, group * new, width) * scaling
    own = (grouped @ key.transpose(2, 3)).float() + attention_mask.repeat(1, 1, group, 1)
    # All rows of the batch meet the prefix in one product per head: it is read once.
    merged = grouped.transpose(0, 1).reshape(kv_heads, batch * group * new, width)
    far, far_total, far_top = (
        part.view(kv_heads, batch, group * new, -1).transpose(0, 1)
        for part in _attend(merged, keys, values)
    )
    top = torch.maximum(own.amax(-1, keepdim=True), far_top)
    own, far_weight = (own - top).exp_(), (far_top - top).exp_()
    total = own.sum(-1, keepdim=True) + far_total * far_weight
    result = (own.to(value.dtype) @ value + far * far_weight) / total
    return result.view(batch, heads, new, width).transpose(1, 2).to(query.dtype), None


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax attention before its division: weighted values, sum of weights, highest score; fp32.

    Shapes: query (kv heads, rows, width), keys and values (kv heads, P, width), results (kv heads,
    rows, width) and twice (kv heads, rows, 1).
    """
    results = []
    for head, key, value in zip(query, keys, values, strict=True):
        # Few rows at a time: the scores of one block stay in the CPU's cache.
        for block in head.split(_BLOCK_ROWS):
            scores = (block @ key.T).float()
            top = scores.amax(-1, keepdim=True)
            scores = scores.sub_(top).exp_()
            product = (scores.to(value.dtype) @ value).float()
            results.append((product, scores.sum(-1, keepdim=True), top))
    weighted, total, top = (torch.cat(parts) for parts in zip(*results, strict=True))
    return weighted, total, top


AttentionInterface.register(_ATTENTION, _shared_prefix_attention)


def few_shot_text(task: Task, examples: Sequence[Mapping[str, Any]]) -> str:
    """Instruction, one line per tool, then each example's query and call, blank lines between."""
    head = "Each command is followed by the one tool call it asks for, the tool on the first line "
    head += "and one argument on each next line; no_call if no tool fits. The tools:\n"
    shown = [_example_text(task, row) for row in examples]
    return "".join(part + SEPARATOR for part in [head + task.signatures(), *shown])


def _example_text(task: Task, row: Mapping[str, Any]) -> str:
    posed = task.of(row)
    call = posed.render_call(call_from_json(row["call"]))
    if posed.tools is not task.tools:  # its own, which are not among those above
        return f"{posed.render_prompt(row['query'])}{call}"
    return f" {task.normalise(row['query'])}\n{call}"


def choose_examples(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Rows to show before a query: one per tool, the most frequent tools first, ``no_call`` always.

    The first row by id of each tool; where ``count`` is more than there are tools, the second ones
    follow, and so on. The rarest come first and the most frequent last, next to the query.
    """
    by_tool: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        by_tool[row["call"]["name"]].append(row)
    counts = Counter({name: len(members) for name, members in by_tool.items()})
    names = sorted(counts, key=lambda name: (name != NO_CALL.name, -counts[name], name))
    depth = max(counts.values(), default=0)
    ranked = [by_tool[n][level] for level in range(depth) for n in names if level < counts[n]]
    return ranked[:count][::-1]
