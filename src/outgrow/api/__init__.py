"""What Python code calls beyond states: live models, Hugging Face's Trainer, learned operators, runs and studies."""
