"""What a model costs: FLOPs and memory, from its config alone. No tensor is made and torch is not imported."""
