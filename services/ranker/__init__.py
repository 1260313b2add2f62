"""The HTTP service that ranks from the latest parameters."""
