"""Operators on experts: which old expert a new one copies, in which pieces, and how the router tells them apart."""
