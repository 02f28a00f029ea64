"""Operators in depth: which old layer a new layer copies, and whether it speaks."""
