"""What can go wrong between Kafka and a commit.

::

    TrainerError
    ├── BadRecord             a message that cannot be learned from: dead letter, and the stream goes on
    ├── EventsUnavailable     retryable: Kafka did not answer
    ├── LogLost               fatal where `events.on_lost_log` is "stop"
    └── SearchError           fatal: a dimension search cannot do what it is asked for
"""


class TrainerError(Exception):
    """Base of every failure of the trainer."""


class BadRecord(TrainerError):
    """A message that cannot be learned from.

    Args:
        reason: One of a few words, used as a metric's label: json, schema, value, ahead, not_finite.
        detail: What is wrong, naming the field, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class EventsUnavailable(TrainerError):
    """Kafka did not answer. Retry."""


class LogLost(TrainerError):
    """A topic was re-created, or the broker lost records that had been consumed."""


class SearchError(TrainerError):
    """A dimension search that cannot be done. The text names the key or argument."""
