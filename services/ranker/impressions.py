"""Impressions that the ranker logs: kept in a bounded buffer and sent behind the answers' back."""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from services.events import AFTERWARDS, check_impression, id_text, request_key
from services.ranker.metrics import RankerMetrics
from services.ranker.sink import Message, Sink, SinkUnavailable
from trainer.errors import BadRecord

_log = logging.getLogger(__name__)
_BATCH = 500
_RETRY_S = 0.5
_CLOSE_S = 2.0


def impression_of(
    request_id: str,
    ts: int,
    user: Mapping[str, Any],
    context: Mapping[str, Any],
    served: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The impression of an answered ranking request.

    Args:
        request_id: Of the answer.
        ts: The time that it was scored for, in ms since the epoch.
        user: As scored.
        context: As scored.
        served: The items as scored, the first place first. An item that comes again is left out; labels and the like
            are.
    """
    items: dict[str, dict[str, Any]] = {}
    for position, item in enumerate(served):
        shown = {name: value for name, value in item.items() if name not in AFTERWARDS}
        items.setdefault(id_text(item["id"]), {**shown, "position": position})
    return {"request_id": request_id, "ts": ts, "user": user, "context": context, "items": list(items.values())}


class ImpressionLog:
    """Takes impressions without ever waiting, and sends them from a thread of its own.

    While Kafka is away they wait, up to a bound; then new ones are dropped and counted. One that got no answer is sent
    again, so that it may stand in the topic twice.

    Args:
        sink: Where they go.
        topic: Of impressions.
        metrics: Counts what was sent and what was dropped.
        most: How many may wait.
        most_bytes: How many bytes may wait.
    """

    def __init__(
        self, sink: Sink, topic: str, metrics: RankerMetrics, most: int = 10_000, most_bytes: int = 16 << 20
    ) -> None:
        self._sink = sink
        self._topic = topic
        self._metrics = metrics
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)

    def log(self, impression: Mapping[str, Any]) -> None:
        """Takes an impression, or drops and counts it. Does not block."""
        try:
            check_impression(impression)
        except BadRecord as error:
            self._drop("schema", 1)
            _log.warning("an impression was dropped: %s", error.detail)
            return
        message = Message(self._topic, request_key(impression), orjson.dumps(impression))
        with self._changed:
            if len(self._waiting) >= self._most or self._bytes + len(message.value) > self._most_bytes:
                self._drop("full", 1)
                return
            self._waiting.append(message)
            self._bytes += len(message.value)
            self._changed.notify()

    def send_some(self) -> bool:
        """Sends a batch of what waits. Blocks. For one thread.

        Returns:
            Whether Kafka acknowledged all of it.
        """
        with self._changed:
            batch = list(islice(self._waiting, _BATCH))
        if not batch:
            return True
        try:
            refused = self._sink.send(batch)
            again: list[Message] = []
        except SinkUnavailable as error:
            refused = [None] * len(batch)
            again = [message for message, done in zip(batch, error.acknowledged, strict=True) if not done]
            if not self._away:
                _log.warning("impressions wait: %s", error)
        self._away = bool(again)
        with self._changed:
            for _ in batch:
                self._bytes -= len(self._waiting.popleft().value)
            self._waiting.extendleft(reversed(again))
            self._bytes += sum(len(message.value) for message in again)
        lost = sum(refusal is not None for refusal in refused)
        self._drop("too_large", lost)
        self._metrics.impressions.inc(len(batch) - len(again) - lost)
        return not again

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def close(self) -> None:
        """Sends what waits, for two seconds at most; the rest is dropped and counted."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        with self._changed:
            self._drop("stopped", len(self._waiting))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return
            if not self.send_some():
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopped, _RETRY_S):
                        return

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._metrics.impressions_dropped.labels(reason).inc(count)
