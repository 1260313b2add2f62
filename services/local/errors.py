"""What can go wrong with the local stack.

::

    LocalError            the text says what failed and what to do; `exit_code` is that of `dolmen up`
    ├── TopicsUnavailable retryable: the broker did not answer, or refused to create a topic
    └── Interrupted       a signal came while the stack was starting
"""


class LocalError(Exception):
    """The stack cannot start or cannot go on.

    Args:
        message: What failed, and what to do next.
        exit_code: 2 where the configuration is at fault, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TopicsUnavailable(LocalError):
    """The broker did not answer, or refused to create a topic. It may do so later."""


class Interrupted(LocalError):
    """A stop was asked for before everything was ready."""

    def __init__(self) -> None:
        super().__init__("interrupted while starting")
