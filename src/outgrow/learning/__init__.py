"""Learned operators: a few steps of the task's loss fit the numbers of a growth (LiGO, Mango), or layers predict layers (LESA)."""
