"""The algebra of growth: axes, linear maps, slots and recipes. Tensors only: no files, no model names, no papers."""
