"""From training examples to committed parameters."""
