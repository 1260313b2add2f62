"""Creates the topics that do not exist yet."""

import logging
from contextlib import closing

from services.local.errors import LocalError, TopicsUnavailable
from trainer.settings import EventsSettings


def create_missing_topics(events: EventsSettings, bootstrap_servers: str) -> None:
    """Makes sure that the topics exist. Idempotent; a topic that exists is taken as it is. Blocks for some seconds.

    Args:
        events: Names of the topics, partitions of a new one, and how to speak to the broker.
        bootstrap_servers: Where the broker is.

    Raises:
        TopicsUnavailable: If the broker did not answer or refused.
        LocalError: If impressions and actions cannot be paired.
    """
    from services.topics import TopicsUnequal, make_topics
    from trainer.connection import kafka_options
    from trainer.errors import EventsUnavailable
    from trainer.topics import Topics

    logging.getLogger("kafka").addHandler(logging.NullHandler())
    options = kafka_options(events.model_copy(update={"bootstrap_servers": bootstrap_servers}))
    with closing(Topics(options)) as topics:
        try:
            make_topics(topics, events)
        except EventsUnavailable as error:
            raise TopicsUnavailable(str(error)) from error
        except TopicsUnequal as error:
            raise LocalError(str(error)) from error
