"""White-box distillation: the teacher's captured log-probabilities and the loss that uses them."""
