"""Creates the topics that do not exist yet."""

import logging
from contextlib import closing

from services.local.errors import TopicsUnavailable
from trainer.settings import EventsSettings


def create_missing_topics(events: EventsSettings, bootstrap_servers: str) -> None:
    """Makes sure that the topics exist. Idempotent; a topic that exists is taken as it is. Blocks for some seconds.

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
    options = kafka_options(events.model_copy(update={"bootstrap_servers": bootstrap_servers}))
    with closing(Topics(options)) as topics:
        try:
            topics.ensure(events.topics.examples, events.partitions)
            topics.ensure(events.topics.dead_letters, 1)
        except EventsUnavailable as error:
            raise TopicsUnavailable(str(error)) from error
