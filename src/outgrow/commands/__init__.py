"""One file per command: what `outgrow grow`, `train`, `plan` ... do with their options, and what they print."""
