"""Asking the store for single rows while visitors wait: one round trip, little patience, a rest after a failure."""

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from embedding_store.errors import StoreUnavailable
from embedding_store.keys import Keys
from embedding_store.layout import Size
from embedding_store.log import CommitLog
from embedding_store.redis_client import connect
from embedding_store.rows import fetch_rows
from embedding_store.settings import StoreSettings

_log = logging.getLogger(__name__)
_PATIENCE_MS = 500
_REST_S = 1.0


class Fetcher:
    """Reads rows by id. Safe to share between threads.

    Args:
        settings: Where the store is.
        clock: Seconds, monotonic.
    """

    def __init__(self, settings: StoreSettings, clock: Callable[[], float] = time.monotonic) -> None:
        patience_ms = min(settings.timeout, _PATIENCE_MS)
        client = connect(settings.model_copy(update={"timeout": patience_ms}))
        self._log = CommitLog(client, Keys(settings.prefix))
        self._clock = clock
        self._rests_until = 0.0
        self._sizes: dict[str, Size] = {}

    def fetch(self, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, list[bytes | None]] | None:
        """The stored rows of ids by table, None for an id that has none.

        Returns:
            None if the store does not answer, or did not a moment ago: whoever waits is not kept waiting again.
        """
        if self._clock() < self._rests_until:
            return None
        try:
            return fetch_rows(self._log, wanted, self._sizes)
        except StoreUnavailable as error:
            self._rests_until = self._clock() + _REST_S
            _log.warning("rows that are not in memory are scored as unknown for a moment: %s", error)
            return None

    def close(self) -> None:
        """Hangs up."""
        self._log.client.close()
