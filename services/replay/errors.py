"""What can go wrong while a data set is streamed."""


class ReplayError(Exception):
    """The stream cannot go on. The text says why and what to do."""
