"""Topics seen from outside the stream: identity, partitions, the log's bounds, creation, committed offsets."""

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient, TopicPartition
from kafka.protocol.consumer import IsolationLevel, OffsetSpec
from kafka.structs import OffsetAndMetadata

from trainer.connection import connect, describe_error
from trainer.errors import EventsUnavailable

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_MS = 5000
"""How long one request may take before Kafka counts as unavailable."""

_NO_TIMESTAMP = -1


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker describes it.

    Attributes:
        topic_id: Its identity, a UUID as text: another one means another topic of the same name. None where the broker
            is too old to have it (Apache Kafka before 2.8).
        partitions: Numbers of its partitions.
    """

    topic_id: str | None
    partitions: tuple[int, ...]


class Topics:
    """Asks the brokers about topics. Blocking; opens its client when first used.

    Every method raises EventsUnavailable when the brokers do not answer, or refuse.

    Args:
        options: What any Kafka client needs to connect.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {
            **options,
            "bootstrap_timeout_ms": REQUEST_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
        }
        self._admin: KafkaAdminClient | None = None

    def describe(self, topic: str) -> TopicState | None:
        """The topic as it is now, or None if there is none. Creates nothing."""
        answer = self._ask(f"topic {topic} cannot be described", lambda admin: admin.describe_topics([topic]))
        found = answer[0]
        error = kafka.errors.for_code(found["error_code"])
        if error is kafka.errors.UnknownTopicOrPartitionError:
            return None
        if error is not kafka.errors.NoError:
            raise EventsUnavailable(f"{self._where()}: topic {topic} cannot be described: {error.__name__}")
        identity = found["topic_id"]
        known = identity is not None and uuid.UUID(str(identity)).int != 0
        partitions = sorted(p["partition_index"] for p in found["partitions"])
        return TopicState(str(identity) if known else None, tuple(partitions))

    def create(self, topic: str, partitions: int, compacted: bool = False) -> bool:
        """Creates the topic unless it exists, with the brokers' default replication. Idempotent.

        Returns:
            Whether it was created now.
        """
        wanted: dict[str, Any] = {topic: {"num_partitions": partitions}}
        if compacted:
            wanted[topic]["configs"] = {"cleanup.policy": "compact"}
        try:
            self._ask(
                f"topic {topic} cannot be created", lambda admin: admin.create_topics(wanted, wait_for_metadata=True)
            )
        except EventsUnavailable as error:
            if isinstance(error.__cause__, kafka.errors.TopicAlreadyExistsError):
                return False
            raise
        return True

    def ensure(self, topic: str, partitions: int, compacted: bool = False) -> TopicState:
        """The topic as it is now, created if there is none."""
        state = self.describe(topic)
        if state is None:
            if self.create(topic, partitions, compacted):
                log.info("Created topic %s with %d partitions", topic, partitions)
            state = self.describe(topic)
        if state is None:
            raise EventsUnavailable(f"{self._where()}: topic {topic} was created and is not there yet")
        return state

    def earliest(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The first offset that each partition still has."""
        return {p: found.offset for p, found in self._offsets(topic, dict.fromkeys(partitions, OffsetSpec.EARLIEST))}

    def latest(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Each partition's end for a reader of committed records, open transactions excluded.

        Apache Kafka answers exactly. The embedded broker answers one more than the *first* offset of the last batch,
        and 0 while a transaction is open: never more than the true end.
        """
        return {p: found.offset for p, found in self._offsets(topic, dict.fromkeys(partitions, OffsetSpec.LATEST))}

    def at_time(self, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int | None]:
        """The first offset of each partition at or after a time, or None if there is none.

        The embedded broker goes by the time of the append and answers with the first offset of a batch, so the record
        that is meant may come later, never earlier.
        """
        found = self._offsets(topic, dict.fromkeys(partitions, time_ms))
        return {p: None if hit.timestamp == _NO_TIMESTAMP else hit.offset for p, hit in found}

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commits next offsets to Kafka in the name of a group without members."""
        wanted = {TopicPartition(topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        results = self._ask(
            f"offsets of group {group} cannot be committed", lambda admin: admin.alter_group_offsets(group, wanted)
        )
        for where, error in results.items():
            if error is not kafka.errors.NoError:
                self.close()  # the client keeps a coordinator that is none any more
                raise EventsUnavailable(f"{self._where()}: {where} of group {group} not committed: {error.__name__}")

    def close(self) -> None:
        """Closes the client. Idempotent; a later call opens a new one."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(kafka.errors.KafkaError, OSError, RuntimeError):
                admin.close()

    def _offsets(self, topic: str, wanted: Mapping[int, Any]) -> Iterable[tuple[int, Any]]:
        if not wanted:
            return []
        query = {TopicPartition(topic, partition): spec for partition, spec in wanted.items()}
        found = self._ask(
            f"offsets of topic {topic} cannot be listed",
            lambda admin: admin.list_partition_offsets(query, IsolationLevel.READ_COMMITTED),
        )
        return sorted((where.partition, hit) for where, hit in found.items())

    def _ask(self, failure: str, question: Callable[[KafkaAdminClient], Any]) -> Any:
        if self._admin is None:
            self._admin, _ = connect(KafkaAdminClient, **self._options)
        try:
            return question(self._admin)
        except kafka.errors.KafkaError as error:
            raise EventsUnavailable(f"{self._where()}: {failure}: {describe_error(error)}") from error
        except (OSError, RuntimeError) as error:
            self.close()
            raise EventsUnavailable(f"{self._where()}: {failure}: {describe_error(error)}") from error

    def _where(self) -> str:
        return f"Kafka at {','.join(self._options['bootstrap_servers'])}"
