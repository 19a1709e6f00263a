"""The store of log-probabilities: compact, exact in what it keeps, and refused where it does not fit."""

import dataclasses
import shutil
import stat

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from supertiny.distill.logits import Capture, Row, capture_of, read, top_k, write
from supertiny.errors import UserError
from supertiny.task import load_task_folder


def capture(vocabulary=49152, k=64):
    return Capture("m" * 64, "t" * 64, "query", "p" * 64, vocabulary, k)


def make_rows(count, vocabulary, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        length = 4 + number % 20
        logits = 4 * torch.randn(length, vocabulary, generator=generator)
        ids, log_probs = top_k(logits, k, vocabulary)
        tokens = torch.randint(0, vocabulary, (length,), generator=generator)
        rows.append(Row(f"{number:016x}", tokens.numpy(), ids.numpy(), log_probs.numpy()))
    return rows


@pytest.mark.parametrize(("vocabulary", "most"), [(49152, 272), (65536, 272), (151665, 399)])
def test_rows_come_back_and_a_token_takes_few_bytes(tmp_path, vocabulary, most):
    path = tmp_path / "store" / "logits.safetensors"
    rows = make_rows(40, vocabulary, 64)
    rows[0].tokens[0] = vocabulary - 1  # the id most likely to be cut off
    write(path, rows, capture(vocabulary))
    back = list(read(path, capture(vocabulary)))
    assert [row.id for row in back] == [row.id for row in rows]
    for found, wanted in zip(back, rows, strict=True):
        assert np.array_equal(found.tokens, wanted.tokens)
        assert np.array_equal(found.ids, wanted.ids)
        assert found.log_probs.dtype == np.float32
        assert np.abs(np.exp(found.log_probs) / np.exp(wanted.log_probs) - 1).max() < 0.004
    tokens = sum(len(row.tokens) for row in rows)
    assert path.stat().st_size / tokens <= most
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, make_rows(5, 100, 8), capture(100, 8))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_rows_are_a_store_too(tmp_path):
    write(tmp_path / "none", [], capture(100, 8))
    assert list(read(tmp_path / "none", capture(100, 8))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_sha256", "x" * 64),
        ("tokenizer_sha256", "x" * 64),
        ("prompt_form", "signatures"),
        ("prompt_sha256", "x" * 64),
        ("vocabulary", 101),
        ("k", 9),
    ],
)
def test_another_capture_is_refused_before_a_row_is_read(tmp_path, key, value):
    write(tmp_path / "store", make_rows(2, 100, 8), capture(100, 8))
    other = dataclasses.replace(capture(100, 8), **{key: value})
    with pytest.raises(UserError) as error:
        read(tmp_path / "store", other)
    message = str(error.value)
    assert f"{key}: captured with" in message and repr(value) in message
    assert "dvc repro logits" in message
    assert message.count("captured with") == 1, "only what differs is named"


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(UserError, match="file not found; run `dvc repro logits`"):
        read(tmp_path / "store", capture())
    (tmp_path / "store").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="no file of captured log-probabilities"):
        read(tmp_path / "store", capture())
    write(tmp_path / "store", make_rows(2, 100, 8), capture(100, 8))
    whole = (tmp_path / "store").read_bytes()
    (tmp_path / "store").write_bytes(whole[:-50])  # torn
    with pytest.raises(UserError, match="restore it with `dvc checkout`"):
        read(tmp_path / "store", capture(100, 8))


def test_padding_of_the_teachers_head_gets_no_probability():
    """Qwen2.5 has 151,936 or 152,064 rows for the same 151,665 tokens."""
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([logits, torch.full((3, 7), 50.0)], dim=1)
    for found, wanted in zip(top_k(padded, 4, 20), top_k(logits, 4, 20), strict=True):
        assert torch.equal(found, wanted)
    ids, log_probs = top_k(padded, 20, 20)
    assert ids.max() < 20
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))


def test_a_capture_tells_models_tokenizers_and_prompts_apart(tiny_model, lamps, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    first = capture_of(tiny_model, tokenizer, lamps, 64)
    assert first == capture_of(tiny_model, tokenizer, lamps, 64)
    assert (first.vocabulary, first.k, first.prompt_form) == (640, 64, "query")
    differs = lambda a, b: {  # noqa: E731
        key for key, value in dataclasses.asdict(a).items() if dataclasses.asdict(b)[key] != value
    }

    model = shutil.copytree(tiny_model, tmp_path / "model")
    for name, key in [
        ("model.safetensors", "model_sha256"),
        ("tokenizer.json", "tokenizer_sha256"),
    ]:
        data = (model / name).read_bytes()
        (model / name).chmod(0o644)
        (model / name).write_bytes(data + b" ")
        assert differs(first, capture_of(model, tokenizer, lamps, 64)) == {key}
        (model / name).write_bytes(data)
    folder = shutil.copytree(lamps.folder, tmp_path / "lamps")
    text = (folder / "task.yaml").read_text()
    for old, new, keys in [
        ("prompt: query", "prompt: signatures", {"prompt_form", "prompt_sha256"}),
        ("lowercase: true", "lowercase: false", {"prompt_sha256"}),
    ]:
        (folder / "task.yaml").write_text(text.replace(old, new))
        other = load_task_folder(folder)
        assert differs(first, capture_of(model, tokenizer, other, 64)) == keys
    (folder / "task.yaml").write_text(text)
    tools = (folder / "tools.json").read_text()
    (folder / "tools.json").write_text(tools.replace('"alias": "dim"', '"alias": "dimmer"'))
    other = load_task_folder(folder)
    assert differs(first, capture_of(model, tokenizer, other, 64)) == {"prompt_sha256"}


def test_a_capture_without_weights_or_with_too_many_tokens_is_refused(tiny_model, lamps, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(UserError, match="no safetensors weights"):
        capture_of(tmp_path, tokenizer, lamps, 64)
    with pytest.raises(UserError, match="logits.k: found 641, allowed: 1 to 640"):
        capture_of(tiny_model, tokenizer, lamps, 641)
