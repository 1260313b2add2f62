"""What can go wrong with a data set."""


class DatasetError(Exception):
    """A data set cannot be read. The text says which file and column, and what to do."""
