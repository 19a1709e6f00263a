"""A model folder as GGUF in fp32, by llama.cpp's own converter.

    python benchmarks/to_gguf.py llama.cpp/convert_hf_to_gguf.py models/tiny tiny.gguf

The converter knows how a tokenizer splits text by a hash over the token ids of one text. A vocabulary
that was cut has other ids, so no table can hold its hash, and the converter is told the name that
SmolLM2's way of splitting has in llama.cpp. Of a whole vocabulary it finds the name itself.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the converter with its own packages, told the name if one is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("model", type=Path, help="folder with config, tokenizer and safetensors")
    parser.add_argument("out", type=Path, help="the .gguf file to write")
    parser.add_argument("--splits-like", default="smollm", help="llama.cpp's name; '' for unknown")
    args = parser.parse_args()
    home = args.converter.resolve().parent
    sys.path[:0] = [str(home), str(home / "gguf-py")]
    if args.splits_like:
        from conversion import base

        base.TextModel.get_vocab_base_pre = lambda *_: args.splits_like
    told = ["--outfile", str(args.out), "--outtype", "f32"]
    sys.argv = [str(args.converter), str(args.model), *told]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
