"""Where batches come from: text, tokens, masks and images, in an order that is a function of (seed, position)."""
