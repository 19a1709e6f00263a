"""Matrices as integers of few bits: round to nearest, and the layouts they are packed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supertiny.errors import UserError


@dataclass(frozen=True)
class Rounded:
    """A matrix of shape (rows, columns) as ``(codes - zeros) * scales``, block by block of a row.

    codes: uint8 (rows, columns), each below ``2**bits``. scales: fp32 (rows, blocks). zeros: uint8
    (rows, blocks), ``2**(bits - 1)`` throughout where the rounding is symmetric.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bits: int

    @property
    def block_size(self) -> int:
        """Weights that share one scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle code, which need not be stored."""
        return bool((self.zeros == 1 << (self.bits - 1)).all())

    def dequantized(self) -> np.ndarray:
        """The matrix that the codes stand for, fp32 (rows, columns)."""
        blocks = self.codes.reshape(*self.scales.shape, -1).astype(np.float32)
        values = (blocks - self.zeros[:, :, None]) * self.scales[:, :, None]
        return np.ascontiguousarray(values.reshape(self.codes.shape), np.float32)

    def packed_codes(self) -> np.ndarray:
        """As MatMulNBits of ONNX Runtime wants them: uint8 (rows, blocks, bytes of a block)."""
        return _packed(self.codes.reshape(*self.scales.shape, -1), self.bits)

    def packed_zeros(self) -> np.ndarray:
        """As MatMulNBits of ONNX Runtime wants them: uint8 (rows, bytes)."""
        odd = self.zeros.shape[1] % (8 // self.bits)
        return _packed(np.pad(self.zeros, ((0, 0), (0, odd))), self.bits)


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    # The first of two 4-bit codes is the low half of its byte.
    return codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4


def round_to_nearest(weight: np.ndarray, bits: int, block_size: int, symmetric: bool) -> Rounded:
    """Round a fp32 matrix (rows, columns) to the nearest of ``2**bits`` values a block.

    Symmetric: the weight of the largest magnitude becomes the lowest code exactly, so that a scale
    is negative where that weight is positive; no code is left unused. Otherwise the codes span
    each block from its lowest to its highest weight, 0 included.

    Raises:
        UserError: the columns do not divide by ``block_size``.
    """
    if weight.shape[1] % block_size:
        raise UserError(
            f"quantize.block_size {block_size}: a matrix has {weight.shape[1]} columns, which do not "
            "divide by it; set another one in params.yaml"
        )
    middle, top = 1 << (bits - 1), (1 << bits) - 1
    blocks = weight.reshape(len(weight), -1, block_size)
    if symmetric:
        farthest = np.abs(blocks).argmax(-1, keepdims=True)
        scales = np.take_along_axis(blocks, farthest, -1)[:, :, 0] / np.float32(-middle)
        zeros = np.full(scales.shape, middle, np.uint8)
    else:
        low, high = blocks.min(-1).clip(max=0), blocks.max(-1).clip(min=0)
        scales = (high - low) / np.float32(top)
        zeros = np.rint(-low / np.where(scales == 0, 1, scales)).astype(np.uint8)
    steps = np.rint(blocks / np.where(scales == 0, 1, scales)[:, :, None])
    codes = (steps + zeros[:, :, None]).clip(0, top).astype(np.uint8)
    return Rounded(codes.reshape(weight.shape), scales.astype(np.float32), zeros, bits)


def from_gptq(qweight: np.ndarray, qzeros: np.ndarray, scales: np.ndarray) -> Rounded:
    """A 4-bit matrix from the layout of GPTQ checkpoints, where inputs come first.

    Args:
        qweight: int32 (columns / 8, rows), eight codes each, the first in the lowest bits.
        qzeros: int32 (blocks, rows / 8), zero points less 1.
        scales: (blocks, rows).
    """
    shifts = np.arange(0, 32, 4, dtype=np.int32)
    codes = (qweight[:, None, :] >> shifts[None, :, None]) & 15
    zeros = ((qzeros[:, :, None] >> shifts) & 15).reshape(len(qzeros), -1)
    zeros = (zeros[:, : scales.shape[1]] + 1) & 15
    return Rounded(
        np.ascontiguousarray(codes.reshape(-1, qweight.shape[1]).T, np.uint8),
        np.ascontiguousarray(scales.T, np.float32),
        np.ascontiguousarray(zeros.T, np.uint8),
        4,
    )


def stacked(parts: Sequence[Rounded]) -> Rounded:
    """Matrices of equal columns, one under the other."""
    return Rounded(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zeros for part in parts]),
        parts[0].bits,
    )
