"""What can go wrong in the joiner beside the trainer's errors of Kafka.

::

    JoinerError
    ├── Fenced                fatal: another joiner took the partition
    └── TopicsUnequal         fatal: impressions and actions cannot be paired
"""


class JoinerError(Exception):
    """Base of what ends the joiner."""


class Fenced(JoinerError):
    """Another joiner took over a partition of this one."""


class TopicsUnequal(JoinerError):
    """The topics of impressions and actions do not have the same number of partitions, or lack one."""
