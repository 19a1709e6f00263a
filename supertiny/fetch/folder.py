"""A folder of safetensors: what of it may be opened, and source `path`, which reads one."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from supertiny.errors import UserError
from supertiny.fetch.base import Base, check_sha256, load_model, weights_sha256
from supertiny.fetch.gguf import load_gguf
from supertiny.io import read_json, sha256_file
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


def from_path(cfg: Fetch, scratch: Path) -> Base:
    """A folder of safetensors or a GGUF file on this machine."""
    path = Path(cfg.path)
    remedy = "Set fetch.sha256 to the hash of the weights you mean, or to nothing for no check."
    if path.is_dir():
        names = [file.name for file in path.iterdir()]
        folder = stage_folder(path, names, str(path), scratch)
        return load_folder(folder, cfg.sha256, str(path), remedy, {"source": "path"})
    if path.is_file() and path.suffix == ".gguf":
        found = sha256_file(path)
        check_sha256(found, cfg.sha256, str(path), remedy)
        return load_gguf(path, {"source": "path", "file": path.name, "sha256": found}, scratch)
    kind = "a file that is no .gguf" if path.exists() else "nothing"
    raise UserError(
        f"params.yaml: fetch.path: found {kind} at {cfg.path}, expected a folder with safetensors "
        "or a .gguf file; correct it and run `dvc repro fetch`"
    )


def stage_folder(folder: Path, names: list[str], where: str, scratch: Path) -> Path:
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


def load_folder(
    folder: Path, expected: str, where: str, remedy: str, origin: dict[str, str]
) -> Base:
    """The student in a folder that `stage_folder` made, its weights hash checked first."""
    from transformers import PreTrainedTokenizerFast

    weights = [file for file in folder.iterdir() if _is_weight(file.name)]
    found = weights_sha256(weights)
    check_sha256(found, expected, f"weights of {where}", remedy)
    model = load_model(folder, where, use_safetensors=True)
    # Not AutoTokenizer: for `tokenizer_class: GPT2Tokenizer` (SmolLM2 on the hub) it rebuilds the
    # tokenizer without the pre-tokenizer that tokenizer.json asks for.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    name = weights[0].name if len(weights) == 1 else WEIGHT_PATTERNS[1]
    licence = _card_licence(folder / "README.md")
    return Base(model, tokenizer, {**origin, "file": name, "sha256": found, "licence": licence})


def _card_licence(card: Path) -> str:
    """The licence of a model card's front matter, or "unknown"."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    found = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S+)", text)
    return found[1] if found else "unknown"
