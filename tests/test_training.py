"""Configuration files of `accelerate launch` that come with the project."""

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
