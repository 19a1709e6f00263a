"""Rounding learned on rows of the task: AutoRound and GPTQ through Intel Neural Compressor.

AutoRound (arXiv 2309.05516) trains, layer by layer, which way each weight is rounded and how far
each block's range is clipped, so that the layer's output on the rows stays what it was. GPTQ
(arXiv 2210.17323) rounds column by column and lets the later columns make up for the earlier ones.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from supertiny.encoding import Encoded
from supertiny.errors import UserError
from supertiny.params.quantize import Quantize
from supertiny.precision import use_bf16
from supertiny.rounding import Rounded, from_gptq
from supertiny.scoring import load_fp32

_BATCH = 8  # rows of one AutoRound step
_CODES, _ZEROS, _SCALES = ".qweight", ".qzeros", ".scales"  # of a layer, in the layout of GPTQ


def calibrated(source: Path, rows: Sequence[Encoded], params: Quantize) -> dict[str, Rounded]:
    """Every linear layer but the head, rounded to 4 bits by ``params.method``.

    Returns:
        Module names, such as ``model.layers.0.mlp.up_proj``, with the rounded weight (out, in).

    Raises:
        UserError: there are no rows to calibrate on.
    """
    if not rows:
        raise UserError(f"quantize.method {params.method}: found no rows to calibrate on")
    torch.manual_seed(params.seed)
    sequences = [(prompt + answer)[: params.calibration_tokens] for prompt, answer in rows]
    tensors = _METHODS[params.method](load_fp32(source), sequences, params)
    names = sorted(name.removesuffix(_CODES) for name in tensors if name.endswith(_CODES))
    return {
        name: from_gptq(
            tensors[name + _CODES],
            tensors[name + _ZEROS],
            tensors[name + _SCALES],
            params.block_size,
        )
        for name in names
    }


def _autoround(
    model: Any, sequences: Sequence[list[int]], params: Quantize
) -> dict[str, np.ndarray]:
    from neural_compressor.torch.quantization import AutoRoundConfig, convert, prepare
    from safetensors import safe_open

    # It takes no sequence shorter than ``seqlen``, so rows are padded behind their end.
    width = params.calibration_tokens
    end = sequences[0][-1]
    with tempfile.TemporaryDirectory() as folder:
        config = AutoRoundConfig(
            bits=4,
            group_size=params.block_size,
            use_sym=params.symmetric,
            dtype="int",
            scheme="W4A16",
            iters=params.iterations,
            nsamples=len(sequences),
            seqlen=width,
            batch_size=min(_BATCH, len(sequences)),
            seed=params.seed,
            amp=use_bf16(params.precision),
            device_map="cpu",
            export_format="auto_gptq",
            output_dir=folder,
        )
        prepared = prepare(model, config)
        for sequence in sequences:
            gap = width - len(sequence)
            prepared(
                input_ids=torch.tensor([sequence + [end] * gap]),
                attention_mask=torch.tensor([[1] * len(sequence) + [0] * gap]),
            )
        # It collects garbage several times a layer, and looking each time through the modules and
        # rows that are there already, none of them garbage, takes as long as the rounding itself.
        gc.freeze()
        try:
            done = convert(prepared)
        finally:
            gc.unfreeze()
        tensors: dict[str, np.ndarray] = {}
        for file in sorted(Path(done.name_or_path).glob("*.safetensors")):
            with safe_open(file, "numpy") as opened:
                names = [name for name in opened.keys() if name.endswith((_CODES, _ZEROS, _SCALES))]  # noqa: SIM118
                tensors |= {name: opened.get_tensor(name) for name in names}
    return tensors


def _gptq(model: Any, sequences: Sequence[list[int]], params: Quantize) -> dict[str, np.ndarray]:
    from neural_compressor.torch.quantization import GPTQConfig, convert, prepare

    config = GPTQConfig(
        bits=4,
        group_size=params.block_size,
        use_sym=params.symmetric,
        # Scales of a block are those of its weights as earlier columns left them.
        block_size=params.block_size,
    )
    prepared = prepare(model, config)
    for sequence in sequences:
        prepared(torch.tensor([sequence]))
    done = convert(prepared)
    state = done.state_dict()
    return {name: state[name].numpy() for name in state if name.endswith((_CODES, _ZEROS, _SCALES))}


_METHODS = {"autoround": _autoround, "gptq": _gptq}
