"""One visitor of a data set: ranks, clicks, and ranks again, over HTTP alone."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from services.replay.errors import ReplayError

_CANDIDATES = 10
_LIMIT_S = 30.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, and what could be shown.

    Attributes:
        user: As in messages.
        context: As in messages.
        candidates: Items without labels.
    """

    user: Mapping[str, Any]
    context: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One answer of the ranker: ids and scores, best first, the commit that scored, and the request."""

    ids: tuple[Any, ...]
    scores: tuple[float, ...]
    commit: int
    request_id: str

    def place(self, item: Any) -> int:
        """The place of an item, from 1."""
        return self.ids.index(item) + 1


@dataclass(frozen=True, slots=True)
class Visit:
    """What happened.

    Attributes:
        before: The ranking before the clicks.
        after: The first ranking with another order after the last click.
        clicked: The item.
        clicks: How many clicks it took until the item moved up.
        seconds: From the click that changed the order to the first ranking that shows it.
    """

    before: Ranking
    after: Ranking
    clicked: Any
    clicks: int
    seconds: float


def pick_visitor(messages: Iterable[Mapping[str, Any]], look_at: int = 20_000) -> Visitor:
    """The visitor with most examples among the first messages, and the items that were shown most.

    Raises:
        ReplayError: If there are no messages.
    """
    seen: dict[Any, int] = {}
    users: dict[Any, Mapping[str, Any]] = {}
    shown: dict[Any, int] = {}
    items: dict[Any, Mapping[str, Any]] = {}
    for _, message in zip(range(look_at), messages, strict=False):
        key = message["user"].get("id")
        seen[key] = seen.get(key, 0) + 1
        users[key] = message
        for item in message["items"]:
            shown[item["id"]] = shown.get(item["id"], 0) + 1
            items[item["id"]] = {k: v for k, v in item.items() if k not in ("labels", "outcomes", "weight")}
    if not seen:
        raise ReplayError("the data set has no message, so there is no visitor to rank for")
    message = users[max(seen, key=seen.__getitem__)]
    best = sorted(shown, key=shown.__getitem__, reverse=True)[:_CANDIDATES]
    return Visitor(message["user"], message.get("context", {}), tuple(items[i] for i in best))


class Shop:
    """The visitor's side of the ranker's HTTP interface.

    Args:
        client: With the ranker's base URL.
        visitor: Who asks.
        clock: Seconds, monotonic.
        wall_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        client: httpx.Client,
        visitor: Visitor,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._client = client
        self._visitor = visitor
        self._clock = clock
        self._wall_ms = wall_ms

    def rank(self, shown: bool = False) -> Ranking:
        """Asks for the candidates in order; one that is shown is logged as an impression."""
        body = {
            "user": self._visitor.user,
            "context": self._visitor.context,
            "candidates": self._visitor.candidates,
            "log_impression": shown,
        }
        answer = self._post("/v1/rank", body)
        ids, scores = ([item[name] for item in answer["items"]] for name in ("id", "score"))
        return Ranking(tuple(ids), tuple(scores), answer["model"]["commit"], answer["request_id"])

    def click(self, shown: Ranking, item_id: Any, action: str) -> None:
        """Posts what the visitor did with an item of a list that was shown; returns once Kafka has it."""
        done = {"request_id": shown.request_id, "ts": self._wall_ms(), "item_id": item_id, "action": action}
        answer = self._post("/v1/events", {"actions": [done]})
        if answer["accepted"] != 1:
            raise ReplayError(f"the ranker did not accept the click: {answer}")

    def visit(self, action: str, clicks: int = 10) -> Visit:
        """Looks at the list, clicks the last item until it moves up, and times the first change of the order.

        Raises:
            ReplayError: If the order did not change in half a minute, or the ranker refused.
        """
        shown = before = current = self.rank(shown=True)
        item = before.ids[-1]
        start, changed_s = self._clock(), None
        for count in range(1, clicks + 1):
            clicked = self._clock()
            self.click(shown, item, action)
            while current.commit == shown.commit or (count == clicks and changed_s is None):
                current = self.rank()
                if changed_s is None and current.ids != before.ids:
                    changed_s = self._clock() - clicked
                if self._clock() - start > _LIMIT_S:
                    raise ReplayError(f"the order did not change within {_LIMIT_S:.0f} s of {count} clicks")
                time.sleep(_POLL_S)
            if changed_s is not None and current.place(item) <= len(before.ids) // 2:
                break
            shown = current = self.rank(shown=True)
        assert changed_s is not None  # noqa: S101 - the last click waits for a change
        return Visit(before, current, item, count, changed_s)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._client.post(path, json=body).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            raise ReplayError(f"{path}: {error.response.status_code}: {error.response.text}") from error
        except httpx.HTTPError as error:
            raise ReplayError(f"{path}: the ranker does not answer: {error}") from error
