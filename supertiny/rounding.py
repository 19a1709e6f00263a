"""Matrices as integers of few bits: round to nearest, and the layouts they are packed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supertiny.errors import UserError

_MIN_BLOCK = 16  # of GatherBlockQuantized and MatMulNBits of ONNX Runtime


@dataclass(frozen=True)
class Rounded:
    """A matrix of shape (rows, columns) as ``(codes - zeros) * scales``, block by block of a row.

    codes: uint8 (rows, columns), each below ``2**bits``. scales: fp32 (rows, blocks). zeros: uint8
    (rows, blocks), ``2**(bits - 1)`` throughout where the rounding is symmetric. block_size: weights
    that share one scale; the last block of a row has what is left.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bits: int
    block_size: int

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle code, which need not be stored."""
        return bool((self.zeros == 1 << (self.bits - 1)).all())

    def dequantized(self) -> np.ndarray:
        """The matrix that the codes stand for, fp32 (rows, columns)."""
        zeros, scales = (
            np.repeat(array, self.block_size, axis=1)[:, : self.codes.shape[1]]
            for array in (self.zeros, self.scales)
        )
        return (self.codes.astype(np.float32) - zeros) * scales

    def packed_codes(self) -> np.ndarray:
        """As MatMulNBits of ONNX Runtime wants them: uint8 (rows, blocks, bytes of a block)."""
        return _packed(_in_blocks(self.codes, self.block_size), self.bits)

    def packed_zeros(self) -> np.ndarray:
        """As MatMulNBits of ONNX Runtime wants them: uint8 (rows, bytes)."""
        odd = self.zeros.shape[1] % (8 // self.bits)
        return _packed(np.pad(self.zeros, ((0, 0), (0, odd))), self.bits)


def _in_blocks(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """(rows, columns) to (rows, blocks, block size), the last block filled up with zeros."""
    missing = -matrix.shape[1] % block_size
    return np.pad(matrix, ((0, 0), (0, missing))).reshape(len(matrix), -1, block_size)


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    # The first of two 4-bit codes is the low half of its byte.
    return codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4


def round_to_nearest(weight: np.ndarray, bits: int, block_size: int, symmetric: bool) -> Rounded:
    """Round a fp32 matrix (rows, columns) to the nearest of ``2**bits`` values a block.

    Symmetric: the weight of the largest magnitude becomes the lowest code exactly, so that a scale
    is negative where that weight is positive; no code is left unused. Otherwise the codes span
    each block from its lowest to its highest weight, 0 included.
    """
    middle, top = 1 << (bits - 1), (1 << bits) - 1
    blocks = _in_blocks(weight, block_size)
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
    codes = codes.reshape(len(weight), -1)[:, : weight.shape[1]]
    return Rounded(codes, scales.astype(np.float32), zeros, bits, block_size)


def from_gptq(
    qweight: np.ndarray, qzeros: np.ndarray, scales: np.ndarray, block_size: int
) -> Rounded:
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
        block_size,
    )


def whole_blocks(width: int, block_size: int) -> int:
    """The largest power of 2 up to ``block_size``, itself one, of which blocks fill a row of ``width``.

    At 8 bits no block is left in part, as a product would store it filled up: a tenth of all bytes
    where the last of 5 blocks is half empty, which 4 bits win back by fewer scales and 8 bits do not.

    Raises:
        UserError: not even blocks of 16, the smallest there are, fill it.
    """
    size = math.gcd(width, block_size)
    if size < _MIN_BLOCK:
        raise UserError(
            f"quantize: a matrix has {width} columns, which is no multiple of {_MIN_BLOCK}, so that "
            "ONNX Runtime cannot take its rows in blocks"
        )
    return size


def stacked(parts: Sequence[Rounded]) -> Rounded:
    """Matrices of equal columns, one under the other."""
    return Rounded(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zeros for part in parts]),
        parts[0].bits,
        parts[0].block_size,
    )
