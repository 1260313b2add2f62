"""The last state record of a pair of partitions, read from the state topic."""

from services.joiner.record import Record
from trainer.reader import Reader
from trainer.topics import Topics

_FIRST_LOOK = 100
_POLL_MS = 200
_POLL_RECORDS = 2000


def read_record(reader: Reader, topics: Topics, topic: str, partition: int, key: bytes) -> Record | None:
    """The last state record under a key; None if there is none.

    Args:
        reader: Of the state topic.
        topics: Asks for the log's bounds.
        topic: The state topic.
        partition: Where the record is.
        key: The record's key.

    Raises:
        EventsUnavailable: If Kafka did not answer.
        ValueError: If the record is of another version.
    """
    first = topics.earliest(topic, [partition])[partition]
    end = reader.ends(topics.latest(topic, [partition]))[partition]
    look = _FIRST_LOOK
    while True:
        start = max(first, end - look)
        found = _last_value(reader, partition, start, end, key)
        if found is not None:
            return Record.from_json(found)
        if start == first:
            return None
        look *= 10


def _last_value(reader: Reader, partition: int, start: int, end: int, key: bytes) -> bytes | None:
    found = None
    reader.await_answers({partition: start})
    while reader.position(partition) < end:
        records = reader.poll(_POLL_MS, _POLL_RECORDS)
        for record in records:
            if record.key == key:
                found = record.value
        if not records and reader.position(partition) >= (reader.high_watermark(partition) or 0):
            break
    return found
