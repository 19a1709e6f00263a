"""What training stages share: configuration files of `accelerate launch`, and memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FILES = sorted(Path("conf/accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_knows_every_key(path):
    config = load_config_from_file(str(path))  # raises for a key that it does not know
    assert config.num_processes > 1
    assert config.distributed_type.value in {"FSDP", "MULTI_GPU"}


def test_there_are_two():
    assert [path.stem for path in FILES] == ["fsdp", "multi_node"]


def test_memory_that_a_step_has_freed_is_there_for_the_next_without_new_pages():
    code = """
import resource, torch
from supertiny.training import _keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB, far above what the allocator keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = [faults() for _ in range(3)][-1]
_keep_freed_memory()
kept = [faults() for _ in range(3)][-1]
print(returned, kept)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    returned, kept = map(int, run.stdout.split())
    assert kept < returned / 10
