"""Models as data: from a config to the axes and signatures of every parameter, and what transformers says of them."""
