"""`run.yaml` as data: stages, schedules, triggers, optimizers. Every mistake is named before any work."""
