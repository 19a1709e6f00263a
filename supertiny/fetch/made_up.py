"""Source `random`: a small model and tokenizer that know nothing, for the smoke profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supertiny.fetch.base import SPECIAL_KINDS, Base, wrap
from supertiny.params.fetch import Fetch

RANDOM_VOCABULARY = 640
RANDOM_HEAD_DIM = 16
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def from_random(cfg: Fetch, scratch: Path) -> Base:
    """Random weights of the size the params ask for."""
    special = ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer = wrap(
        random_tokenizer(), CHAT_TEMPLATE, **dict(zip(SPECIAL_KINDS, special, strict=True))
    )
    model = _random_model(cfg.random_layers, cfg.random_hidden)
    return Base(model, tokenizer, {"source": "random", "licence": "none needed"})


def random_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 640 tokens in SmolLM2's form, learned from made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    trainer = trainers.BpeTrainer(
        vocab_size=RANDOM_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_made_up_words(), trainer)
    return tokenizer


def _made_up_words() -> list[str]:
    onsets = [*"bcdfghklmnprstw", "sh", "th", "st", "tr"]
    rimes = ["a", "at", "ed", "en", "er", "ight", "ing", "is", "ome", "on", "oor", "ow", "urn"]
    syllables = [onset + rime for onset in onsets for rime in rimes]
    pairs = zip(syllables, syllables[7:] + syllables[:7], strict=True)
    words = [f" {first}{second}" for first, second in pairs]
    words += [f" {syllable}" for syllable in syllables]
    return [*words, '{"name": "', '", "', '": "', '"}}']


def _random_model(layers: int, hidden: int) -> Any:
    """A Llama of ``layers`` layers and width ``hidden``; the same weights on every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden // RANDOM_HEAD_DIM
    config = LlamaConfig(
        vocab_size=RANDOM_VOCABULARY, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 2,
        head_dim=RANDOM_HEAD_DIM, max_position_embeddings=2048, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(0)
        return LlamaForCausalLM(config).float()
