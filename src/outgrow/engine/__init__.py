"""One optimizer step on plain PyTorch, and what a stage may do to old and new entries while it trains."""
