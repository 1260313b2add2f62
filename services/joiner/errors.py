"""What can go wrong in the joiner beside the trainer's errors of Kafka.

::

    JoinerError
    └── Fenced                fatal: another joiner took the partition
"""


class JoinerError(Exception):
    """Base of what ends the joiner."""


class Fenced(JoinerError):
    """Another joiner took over a partition of this one."""
