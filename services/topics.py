"""The topics between the services: which there are, made where they are missing."""

from trainer.settings import EventsSettings
from trainer.topics import Topics, TopicState


class TopicsUnequal(Exception):
    """Impressions and actions do not have the same partitions, so what belongs together would not meet."""


def make_topics(topics: Topics, events: EventsSettings) -> dict[str, TopicState]:
    """Makes the topics that do not exist yet. Idempotent; a topic that exists is taken as it is.

    Impressions and actions get the same number of partitions: where one exists, the other gets as many.

    Args:
        topics: Asks the brokers.
        events: Names of the topics, and partitions of a new one.

    Returns:
        Impressions, actions and the joiner's state topic as they are.

    Raises:
        TopicsUnequal: If impressions and actions do not have the same partitions.
        EventsUnavailable: If Kafka did not answer.
    """
    names = events.topics
    found = {name: topics.describe(name) for name in (names.impressions, names.actions)}
    counts = [len(state.partitions) for state in found.values() if state is not None]
    states = {name: topics.ensure(name, counts[0] if counts else events.partitions) for name in found}
    check_pair(events, states[names.impressions], states[names.actions])
    partitions = len(states[names.impressions].partitions)
    topics.ensure(names.examples, partitions)
    topics.ensure(names.dead_letters, 1)
    states[names.joiner_state] = topics.ensure(names.joiner_state, partitions, compacted=True)
    return states


def check_pair(events: EventsSettings, impressions: TopicState, actions: TopicState) -> None:
    """Sees that both topics have the same partitions.

    Raises:
        TopicsUnequal: If they do not.
    """
    if impressions.partitions != actions.partitions:
        raise TopicsUnequal(
            f"Topic {events.topics.impressions} has {len(impressions.partitions)} partitions and "
            f"{events.topics.actions} has {len(actions.partitions)}: what belongs together would not meet. Give both "
            "the same number (more can be added with kafka-topics --alter, while nothing waits to be joined)."
        )
