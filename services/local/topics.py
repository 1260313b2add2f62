"""Creates the topics that do not exist yet."""

import logging
from contextlib import closing

from services.local.errors import TopicsUnavailable
from trainer.settings import EventsSettings


def create_missing_topics(events: EventsSettings, bootstrap_servers: str) -> None:
    """Makes sure that the topics exist. Idempotent; a topic that exists is taken as it is. Blocks for some seconds.

    Impressions and actions must have the same number of partitions: where one exists, the other gets as many.

    Args:
        events: Names of the topics, partitions of a new one, and how to speak to the broker.
        bootstrap_servers: Where the broker is.

    Raises:
        TopicsUnavailable: If the broker did not answer or refused.
    """
    from trainer.connection import kafka_options
    from trainer.errors import EventsUnavailable
    from trainer.topics import Topics

    logging.getLogger("kafka").addHandler(logging.NullHandler())
    names = events.topics
    options = kafka_options(events.model_copy(update={"bootstrap_servers": bootstrap_servers}))
    with closing(Topics(options)) as topics:
        try:
            pair = (names.impressions, names.actions)
            there = [len(state.partitions) for name in pair if (state := topics.describe(name)) is not None]
            partitions = there[0] if there else events.partitions
            for name in (*pair, names.examples):
                topics.ensure(name, partitions)
            topics.ensure(names.joiner_state, partitions, compacted=True)
            topics.ensure(names.dead_letters, 1)
        except EventsUnavailable as error:
            raise TopicsUnavailable(str(error)) from error
