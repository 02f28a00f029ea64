"""Checkpoints on the disk: every format that is read or written, streaming, without executing a pickle."""
