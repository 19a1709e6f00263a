"""Parameters of the stage `bundle`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Bundle:
    """What ships."""

    variant: str = param("the ONNX variant to ship", choices=("fp32", "int8", "int4"))
