"""A cut vocabulary splits the corpus as the whole one does, loses no text, and changes no logit."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from supertiny.errors import UserError
from supertiny.fetch.made_up import random_tokenizer
from supertiny.prune.checkpoint import save
from supertiny.prune.vocabulary import (
    choose_tokens,
    cut_embedding,
    cut_tokenizer,
    id_map,
    load_tokenizer,
    renumber_tokenizer_config,
    tokens_per_character,
)

# The split of Qwen2's tokenizers: contractions, words, single digits, punctuation, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
WORDS = ["turn", "the", "kitchen", "light", "timer", "shopping", "brightness", "sting", "throom"]


def qwen_tokenizer():
    """A tokenizer in Qwen2's form: NFC, its split, added tokens after the vocabulary, not in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8") for path in (Path("README.md"), Path(__file__))]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(ADDED[:3])
    tokenizer.add_tokens(ADDED[3:])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B",
        special_tokens=[("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))],
    )  # fmt: skip
    return tokenizer


TOKENIZERS = {"smollm2": random_tokenizer(), "qwen2": qwen_tokenizer()}
kinds = pytest.mark.parametrize("kind", TOKENIZERS)
word = st.sampled_from(WORDS) | st.text(max_size=6) | st.sampled_from(ADDED)
text = st.lists(word, max_size=6).map(" ".join)
corpora = st.lists(text, max_size=4)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def read_back(tokenizer, text):
    return tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False)


@kinds
@settings(max_examples=60, deadline=None)
@given(corpus=corpora, floor=st.integers(0, 200))
def test_the_corpus_is_split_as_before(kind, corpus, floor):
    whole = TOKENIZERS[kind]
    kept = choose_tokens(whole, corpus, floor)
    cut = cut_tokenizer(whole, kept)
    assert len(kept) % 64 == 0 and kept == sorted(set(kept))
    assert cut.get_vocab_size() == len(kept) < whole.get_vocab_size()
    new_ids = id_map(kept, whole.get_vocab_size()).tolist()
    for line in corpus:
        assert ids(cut, line) == [new_ids[old] for old in ids(whole, line)]


@kinds
@settings(max_examples=60, deadline=None)
@given(corpus=corpora, text=st.text() | text)
def test_no_text_is_lost(kind, corpus, text):
    whole = TOKENIZERS[kind]
    cut = cut_tokenizer(whole, choose_tokens(whole, corpus, 0))
    assert read_back(cut, text) == read_back(whole, text)
    if kind == "smollm2":  # the other one composes letters and accents
        assert read_back(cut, text) == text


@kinds
def test_all_that_a_token_is_merged_from_stays(kind):
    whole = TOKENIZERS[kind]
    vocabulary = whole.get_vocab()
    longest = max(vocabulary, key=lambda token: (len(token) if token.isalpha() else 0, token))
    kept = choose_tokens(whole, [longest.replace("Ġ", " ")], 0)
    cut = json.loads(cut_tokenizer(whole, kept).to_str())["model"]
    made = {left + right for left, right in cut["merges"]}
    alphabet = set(pre_tokenizers.ByteLevel.alphabet()) | set(ADDED)
    assert longest in made
    assert cut["vocab"].keys() - alphabet == made
    ranks = json.loads(whole.to_str())["model"]["merges"]
    assert cut["merges"] == [pair for pair in ranks if pair in cut["merges"]]


@kinds
def test_bytes_added_tokens_and_the_floor_stay_without_a_corpus(kind):
    whole = TOKENIZERS[kind]
    kept = choose_tokens(whole, [], 100)
    vocabulary = whole.get_vocab()
    must = [*pre_tokenizers.ByteLevel.alphabet(), *whole.get_added_tokens_decoder().values()]
    assert {vocabulary[str(token)] for token in must} <= set(kept)
    merges = json.loads(whole.to_str())["model"]["merges"]
    assert {vocabulary[left + right] for left, right in merges[:100]} <= set(kept)
    # What fills up to the multiple are the next merges, not some others.
    extra = len(kept) - len(must) - 100
    assert 0 <= extra < 64
    assert {vocabulary[a + b] for a, b in merges[: 100 + extra]} <= set(kept)


@kinds
def test_only_ids_change_in_the_rest_of_the_tokenizer(kind):
    whole = TOKENIZERS[kind]
    kept = choose_tokens(whole, ["turn on the light"], 0)
    cut = cut_tokenizer(whole, kept)
    before, after = json.loads(whole.to_str()), json.loads(cut.to_str())
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        assert after[key] == before[key]
    for token in before["added_tokens"]:
        assert kept[cut.token_to_id(token["content"])] == token["id"]
    # With special tokens: the post-processor's ids have followed.
    mapped = [kept[new] for new in cut.encode("turn on the light").ids]
    assert mapped == whole.encode("turn on the light").ids


def test_ids_in_padding_and_in_a_nested_post_processor_follow():
    whole = qwen_tokenizer()
    end, start = (whole.token_to_id(token) for token in ("<|im_end|>", "<|im_start|>"))
    whole.enable_padding(pad_id=end, pad_token="<|im_end|>")
    whole.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.RobertaProcessing(("<|im_end|>", end), ("<|im_start|>", start)),
        ]
    )
    kept = choose_tokens(whole, ["a"], 0)
    cut = cut_tokenizer(whole, kept)
    found, wanted = ([e.ids for e in t.encode_batch(["a", "a a a"])] for t in (cut, whole))
    assert [[kept[new] for new in row] for row in found] == wanted
    assert wanted[0][-1] == end


def test_where_all_tokens_do_not_fill_a_multiple_all_are_kept():
    whole = TOKENIZERS["smollm2"]
    assert choose_tokens(whole, [], 380, multiple=1000) == list(range(640))


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="found a tokenizer of type WordLevel, expected byte-level"):
        load_tokenizer(tmp_path)


def test_tokens_per_character_counts_code_points():
    whole = TOKENIZERS["smollm2"]
    assert tokens_per_character(whole, ["é1", "12"]) == (2 + 1 + 2) / 4


def test_the_tokenizer_config_keeps_its_tokens():
    config = {"eos_token": "b", "added_tokens_decoder": {"7": {"content": "b"}}}
    assert renumber_tokenizer_config(config, [2, 7]) == {
        "eos_token": "b",
        "added_tokens_decoder": {"1": {"content": "b"}},
    }
    assert renumber_tokenizer_config({"eos_token": "b"}, [2, 7]) == {"eos_token": "b"}


def qwen_model(tied):
    """A Qwen2 of random weights whose embedding has more rows than the tokenizer has tokens."""
    tokenizer = TOKENIZERS["qwen2"]
    end = tokenizer.token_to_id("<|im_end|>")
    config = Qwen2Config(
        vocab_size=1536, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"), eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).double().eval()
    model.generation_config.eos_token_id = [end, tokenizer.token_to_id("<|endoftext|>")]
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_kept_tokens_are_the_whole_models(tied):
    whole = TOKENIZERS["qwen2"]
    kept = choose_tokens(whole, ["turn the kitchen light on"], 50)
    prompt = torch.tensor([ids(whole, "turn the kitchen light on")])
    wanted = qwen_model(tied)(input_ids=prompt).logits[..., kept]
    model = qwen_model(tied)
    cut_embedding(model, kept)
    found = model(input_ids=id_map(kept, 1536)[prompt]).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    same = model.lm_head.weight is model.model.embed_tokens.weight
    assert same == tied


def test_special_ids_of_the_model_follow_their_tokens():
    whole = TOKENIZERS["qwen2"]
    kept = choose_tokens(whole, [], 0)
    model = qwen_model(tied=True)
    cut_embedding(model, kept)
    cut = cut_tokenizer(whole, kept)
    assert model.config.eos_token_id == model.config.pad_token_id == cut.token_to_id("<|im_end|>")
    assert model.generation_config.eos_token_id == [
        cut.token_to_id("<|im_end|>"),
        cut.token_to_id("<|endoftext|>"),
    ]
    model = qwen_model(tied=True)
    model.config.bos_token_id = 1535
    with pytest.raises(UserError, match="bos_token_id: found 1535"):
        cut_embedding(model, kept)


def test_the_saved_checkpoint_loads_plainly_and_speaks_the_same_tokens(tiny_model, tmp_path):
    text = "turn on the throom light"
    source = tiny_model
    whole = load_tokenizer(source)
    kept = choose_tokens(whole, [text], 20)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    before = model(input_ids=torch.tensor([ids(whole, text)])).logits[..., kept]
    cut_embedding(model, kept)
    out = tmp_path / "out"
    for _ in range(2):  # over what is there
        save(model, cut_tokenizer(whole, kept), source, kept, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    found = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert [kept[new] for new in found[0]] == ids(whole, text)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert loaded.config.vocab_size == len(kept) == len(tokenizer)
    torch.testing.assert_close(loaded(input_ids=found).logits, before, rtol=0, atol=1e-5)
    for kind in ("bos", "eos", "pad"):
        assert getattr(loaded.config, f"{kind}_token_id") == getattr(tokenizer, f"{kind}_token_id")
    assert tokenizer.eos_token == "<|im_end|>"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
