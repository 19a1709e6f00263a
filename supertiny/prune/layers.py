"""Fewer layers and narrower feed-forward blocks, by what each does on the texts of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from supertiny.errors import UserError

Batch = dict[str, torch.Tensor]


def batches(rows: Sequence[Sequence[int]], size: int, pad_id: int) -> list[Batch]:
    """Token rows, the longest first, as right-padded batches.

    Returns:
        input_ids and attention_mask, shape (at most ``size``, longest of the batch) each.
    """
    ordered = sorted(rows, key=len, reverse=True)
    result = []
    for at in range(0, len(ordered), size):
        group = ordered[at : at + size]
        width = len(group[0])
        result.append(
            {
                "input_ids": torch.tensor([[*r, *[pad_id] * (width - len(r))] for r in group]),
                "attention_mask": torch.tensor(
                    [[at < len(r) for at in range(width)] for r in group]
                ),
            }
        )
    return result


def block_influence(model: PreTrainedModel, data: Sequence[Batch]) -> torch.Tensor:
    """How much each layer turns the hidden state: 1 - mean cosine of its input and output.

    The mean is over all tokens that are not padding. Source: Men et al., ShortGPT, arXiv
    2403.03853, section 3 (Block Influence).

    Returns:
        float64, shape (layers,), each in [0, 2].
    """
    layers = _layers(model)
    totals = torch.zeros(len(layers), dtype=torch.float64)

    def hook(number: int) -> Callable[..., None]:
        def add(_: Any, args: Any, kwargs: Any, output: torch.Tensor, mask: torch.Tensor) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            cosine = torch.cosine_similarity(given.double(), output.double(), dim=-1)
            totals[number] += (1 - cosine)[mask].sum().cpu()

        return add

    tokens = _run(model, data, layers, hook)
    return totals / tokens


def neuron_importance(model: PreTrainedModel, data: Sequence[Batch]) -> torch.Tensor:
    """Mean absolute activation of each feed-forward neuron, after gate and product.

    The mean of ``|silu(gate) * up|`` over all tokens that are not padding. Source: Muralidharan et
    al., Minitron, arXiv 2407.14679, section 2.2 (neuron importance from activations).

    Returns:
        float64, shape (layers, feed-forward width).
    """
    downs = [layer.mlp.down_proj for layer in _layers(model)]
    totals = torch.zeros(len(downs), downs[0].in_features, dtype=torch.float64)

    def hook(number: int) -> Callable[..., None]:
        def add(_: Any, args: Any, kwargs: Any, output: Any, mask: torch.Tensor) -> None:
            totals[number] += args[0][mask].double().abs().sum(0).cpu()

        return add

    tokens = _run(model, data, downs, hook)
    return totals / tokens


def keep_layers(influence: torch.Tensor, count: int) -> list[int]:
    """The ``count`` layers of most influence, in order; of equals the earlier."""
    ranked = sorted(range(len(influence)), key=lambda at: (-influence[at].item(), at))
    return sorted(ranked[:count])


def keep_neurons(importance: torch.Tensor, width: int) -> list[list[int]]:
    """Per layer the ``width`` neurons of most importance, in order; of equals the earlier."""
    order = importance.argsort(dim=1, descending=True, stable=True)
    return order[:, :width].sort(dim=1).values.tolist()


def cut_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave only the layers ``kept``, in place; config and cache positions follow.

    Raises:
        UserError: not an ascending choice of the model's layers.
    """
    layers = _layers(model)
    if not kept or sorted(set(kept)) != list(kept) or not 0 <= kept[0] <= kept[-1] < len(layers):
        raise UserError(
            f"layers to keep: found {list(kept)}, expected ascending numbers from 0 to"
            f" {len(layers) - 1}, at least one"
        )
    model.base_model.layers = torch.nn.ModuleList(layers[at] for at in kept)
    for number, layer in enumerate(_layers(model)):
        layer.self_attn.layer_idx = number  # its place in the cache of keys and values
    config = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[at] for at in kept]


def cut_neurons(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> None:
    """Leave only the feed-forward neurons ``kept``, as many in each layer, in place.

    Raises:
        UserError: not one choice per layer, or not as many neurons in each.
    """
    layers = _layers(model)
    widths = {len(neurons) for neurons in kept}
    if len(kept) != len(layers) or len(widths) != 1 or widths == {0}:
        raise UserError(
            f"neurons to keep: found {len(kept)} layers of widths {sorted(widths)}, expected"
            f" {len(layers)} layers of one width"
        )
    for layer, neurons in zip(layers, kept, strict=True):
        mlp = layer.mlp
        rows = torch.tensor(neurons, device=mlp.down_proj.weight.device)
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight = _selected(part.weight, 0, rows)
            if part.bias is not None:
                part.bias = _selected(part.bias, 0, rows)
            part.out_features = len(neurons)
        mlp.down_proj.weight = _selected(mlp.down_proj.weight, 1, rows)
        mlp.down_proj.in_features = mlp.intermediate_size = len(neurons)
    model.config.intermediate_size = widths.pop()


def _layers(model: PreTrainedModel) -> list[Any]:
    return list(model.base_model.layers)  # type: ignore[arg-type]


def _selected(weight: torch.nn.Parameter, dim: int, rows: torch.Tensor) -> torch.nn.Parameter:
    chosen = weight.detach().index_select(dim, rows)
    return torch.nn.Parameter(chosen, requires_grad=weight.requires_grad)


@torch.inference_mode()
def _run(
    model: PreTrainedModel,
    data: Sequence[Batch],
    modules: Sequence[torch.nn.Module],
    hook: Callable[[int], Callable[..., None]],
) -> int:
    """Run the model over all batches with a hook on each module; the number of tokens seen."""
    tokens = 0
    mask = torch.empty(0)
    with _hooked(modules, hook, lambda: mask):
        for batch in data:
            on_device = {key: value.to(model.device) for key, value in batch.items()}
            mask = on_device["attention_mask"].bool()
            model.base_model(**on_device, use_cache=False)
            tokens += int(mask.sum())
    return tokens


@contextmanager
def _hooked(
    modules: Sequence[torch.nn.Module],
    hook: Callable[[int], Callable[..., None]],
    mask: Callable[[], torch.Tensor],
) -> Iterator[None]:
    """Hooks on the modules that also get the mask of the current batch; removed at the end."""

    def add(number: int, module: torch.nn.Module) -> Any:
        inner = hook(number)
        return module.register_forward_hook(lambda *args: inner(*args, mask()), with_kwargs=True)

    handles = [add(number, module) for number, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
