"""The prototype: an LLM pipeline that answers through functions, and all it was ever answered."""

from pathlib import Path

RECORDINGS = Path("data/recordings")  # a folder for each task
