"""A smaller model of the same kind: fewer tokens, fewer layers, narrower feed-forward blocks."""
