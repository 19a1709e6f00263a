"""The prototype: an LLM pipeline that answers through functions, and all it was ever answered."""
