"""The joiner's topics: made, paired, and their last state record read."""

from services.joiner.errors import TopicsUnequal
from services.joiner.record import Record
from trainer.reader import Reader
from trainer.settings import EventsSettings
from trainer.topics import Topics, TopicState

_FIRST_LOOK = 100
_POLL_MS = 200
_POLL_RECORDS = 2000


def make_topics(topics: Topics, events: EventsSettings) -> dict[str, TopicState]:
    """Makes the topics that do not exist yet. Idempotent.

    Returns:
        Impressions, actions and the state topic as they are.

    Raises:
        TopicsUnequal: If impressions and actions do not have the same partitions.
        EventsUnavailable: If Kafka did not answer.
    """
    names = events.topics
    found = {name: topics.describe(name) for name in (names.impressions, names.actions)}
    counts = [len(state.partitions) for state in found.values() if state is not None]
    states = {name: topics.ensure(name, counts[0] if counts else events.partitions) for name in found}
    shown, done = states[names.impressions], states[names.actions]
    if shown.partitions != done.partitions:
        raise TopicsUnequal(
            f"Topic {names.impressions} has {len(shown.partitions)} partitions and {names.actions} has "
            f"{len(done.partitions)}: what belongs together would not meet. Give both the same number "
            "(more can be added with kafka-topics --alter, while nothing waits to be joined)."
        )
    topics.ensure(names.examples, len(shown.partitions))
    topics.ensure(names.dead_letters, 1)
    states[names.joiner_state] = topics.ensure(names.joiner_state, len(shown.partitions), compacted=True)
    return states


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
