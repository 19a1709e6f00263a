"""The number of parameters of a Llama or Qwen2 model, counted from its config alone."""

from __future__ import annotations

from typing import Any

from supertiny.errors import UserError

FAMILIES = ("llama", "qwen2")


def count_parameters(
    config: Any,
    vocabulary: int | None = None,
    layers: int | None = None,
    width: int | None = None,
) -> int:
    """Parameters of a model with this config, a tied head counted once.

    With h the hidden size, q and kv the widths of all query and all key heads, w the feed-forward
    width: V*h for the embedding (twice if the head is its own), h for the last norm, and per layer
    2*h*q + 2*h*kv for attention, 3*h*w for the feed-forward block, 2*h for two norms, and biases.

    Args:
        config: a Llama or Qwen2 config of `transformers`.
        vocabulary, layers, width: other values than the config's own.

    Raises:
        UserError: a model of another family.
    """
    if config.model_type not in FAMILIES:
        raise UserError(
            f"model type: found {config.model_type!r}, can prune: {', '.join(FAMILIES)}"
        )
    vocabulary = config.vocab_size if vocabulary is None else vocabulary
    layers = config.num_hidden_layers if layers is None else layers
    width = config.intermediate_size if width is None else width
    hidden = config.hidden_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    query, key = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 2 * hidden * query + 2 * hidden * key + 3 * hidden * width + 2 * hidden
    if config.model_type == "qwen2":  # biases on query, key and value, always
        layer += query + 2 * key
    else:
        layer += (query + 2 * key + hidden) if config.attention_bias else 0
        layer += (2 * width + hidden) if config.mlp_bias else 0
    embeddings = 1 if config.tie_word_embeddings else 2
    return embeddings * vocabulary * hidden + layers * layer + hidden
