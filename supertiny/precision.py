"""In which precision the matrix products run."""

from __future__ import annotations

PRECISIONS = ("auto", "bf16", "fp32")  # what the params named ``precision`` may be


def use_bf16(precision: str) -> bool:
    """Whether to run the matrix products in bf16; see the params named ``precision``."""
    import torch  # not above: params are read without it

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    # Without these instructions bf16 is emulated, a hundred times slower than fp32.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))
