"""A training state and its growth: `TrainingState` in, a larger `TrainingState` out, computed when it is read."""
