"""Operators in width: which units of an axis are copied, and how copies share."""
