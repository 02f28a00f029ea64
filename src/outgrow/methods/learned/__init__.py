"""The forms of learned operators: what their numbers mean, once they are fitted."""
