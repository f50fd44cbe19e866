"""What changes a model on its way to the artifacts: distillation, pruning, fine-tuning."""

__all__: list[str] = []
