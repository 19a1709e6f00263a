"""supertiny: from a large LLM to a super-tiny ONNX model, as one reproducible DVC graph."""
