"""Impressions and actions in, examples out: one pair of partitions as a deterministic state machine in event time.

What leaves is a function of the records that came, in their order, and of the closing watermark. The watermark of a
partition is its highest event time. The closing watermark follows the lower one of both, or the higher one where the
lower gave way; it never goes back.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from services.events import id_text
from services.joiner.entry import AWAITING, NO_OFFSET, Entry
from services.joiner.example import Output, closing_example, item_names, positive_example
from services.joiner.pending import Pending
from services.joiner.record import Record, Side
from services.joiner.rules import Rules, Task, Use

_MOST_HELD = 1000  # actions of one request whose impression has not come
_MOST_IGNORED = 5000


@dataclass(slots=True)
class Tally:
    """What was counted.

    Attributes:
        dropped: Discards by reason.
        late: Actions that came after their impression's window had closed, corrected or dropped.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    late: int = 0


class Join:
    """One pair's machine. Every record must be offered in its partition's order, and only while :meth:`settle` is done.

    Args:
        record: Where the pair stands; taken over.
        rules: Of impressions to come.
        pending: Where requests wait; empty.
        tally: Where discards are counted.
    """

    def __init__(self, record: Record, rules: Rules, pending: Pending, tally: Tally) -> None:
        self._record = record
        self._book = record.book(rules)
        self._pending = pending
        self._tally = tally
        self._target = max(record.closed, min(record.impressions.high, record.actions.high))
        self._reading_again = False
        self.out: list[Output] = []
        self.waiting = 0

    @property
    def record(self) -> Record:
        """Where the pair stands, to be kept with what left; `settle` must be done."""
        record = self._record
        impression, action = self._pending.first_offsets()
        record.impressions.rebuild = record.impressions.next if impression is None else impression
        record.actions.rebuild = record.actions.next if action is None else action
        record.ignored = {offset: until for offset, until in record.ignored.items() if until >= record.closed}
        self._book.drop_before(record.impressions.rebuild)
        record.chapters = self._book.chapters
        return record

    @property
    def highs(self) -> tuple[int, int]:
        """The watermarks of impressions and actions."""
        return self._record.impressions.high, self._record.actions.high

    @property
    def sides(self) -> tuple[Side, Side]:
        """How far the topics of impressions and actions were consumed."""
        return self._record.impressions, self._record.actions

    # Records

    def impression(self, offset: int, message: dict[str, Any], value: bytes) -> None:
        """Takes an impression.

        Args:
            offset: Its offset.
            message: As decoded and checked.
            value: Its bytes.
        """
        self._take_impression(offset, message, value)
        if not self._reading_again:
            self._pass(self._record.impressions, offset, message["ts"])

    def action(self, offset: int, message: dict[str, Any]) -> None:
        """Takes an action, decoded and checked."""
        self._take_action(offset, message)
        if not self._reading_again:
            self._pass(self._record.actions, offset, message["ts"])

    def skip(self, side: int, offset: int) -> bool:
        """Passes over a record that cannot be read; side 0 are impressions, 1 actions.

        Returns:
            Whether it is met for the first time.
        """
        if not self._reading_again:
            self._pass((self._record.impressions, self._record.actions)[side], offset, None)
        return not self._reading_again

    def read_again(self, on: bool) -> None:
        """Whether records are those from the rebuild offsets to the next ones: they make state, and nothing leaves.

        All impressions come first, then all actions.
        """
        self._reading_again = on

    # The closing watermark

    def give_way(self) -> None:
        """Lets the higher one of both watermarks close, since the lower partition has nothing more to say."""
        self._target = max(self._target, self._record.impressions.high, self._record.actions.high)

    @property
    def could_close(self) -> bool:
        """Whether giving way would close anything."""
        high = max(self._record.impressions.high, self._record.actions.high)
        return high > self._record.closed and self._pending.has_due(high)

    def settle(self, most: int | None = None) -> bool:
        """Lets leave what the watermark closes.

        Args:
            most: Stops once so many outputs are there.

        Returns:
            Whether all has left. If not, the closing watermark lags behind; take the outputs and call again.
        """
        record = self._record
        if self._target <= record.closed:
            return True
        last = record.closed
        while (found := self._pending.pop_due(self._target)) is not None:
            request, entry = found
            if most is not None and len(self.out) >= most and entry.due > last:
                record.closed = entry.due
                self._pending.put_back(request, entry)
                return False
            last = entry.due
            self._fall_due(request, entry)
        record.closed = self._target
        return True

    def _pass(self, side: Side, offset: int, ts: int | None) -> None:
        side.next = offset + 1
        if ts is not None and ts > side.high:
            side.high = ts
            record = self._record
            self._target = max(self._target, min(record.impressions.high, record.actions.high))

    def _fall_due(self, request: str, entry: Entry) -> None:
        if entry.stage == AWAITING:
            for _, ts, *_, seen in entry.marks[""]:
                if seen is not None:
                    late = ts + self._book.latest.out_of_orderness_ms < seen
                    self._drop("late_action" if late else "no_impression")
            self._pending.remove(request, entry)
            return
        rules = self._book.at(entry.offset)
        if entry.stage < len(rules.stages):
            output = closing_example(request, entry, rules)
            if output is not None:
                self.out.append(output)
            entry.stage += 1
            self.waiting -= entry.stage == len(rules.stages)
        self._keep_or_forget(request, entry, rules, entry.due)

    def _keep_or_forget(self, request: str, entry: Entry, rules: Rules, passed: int) -> None:
        if entry.stage < len(rules.stages):
            entry.due = rules.end(entry.ts, rules.stages[entry.stage])
        elif rules.forget(entry.ts) > passed:
            entry.due = rules.forget(entry.ts)
        else:
            self._pending.remove(request, entry)
            return
        self._pending.put(request, entry)

    # Impressions

    def _take_impression(self, offset: int, message: dict[str, Any], value: bytes) -> None:
        record, rules, ts = self._record, self._book.at(offset), message["ts"]
        forget = rules.forget(ts)
        if self._reading_again and (offset in record.ignored or record.closed > forget):
            return
        request = message["request_id"]
        found = self._pending.get(request)
        known = found is not None and found.stage != AWAITING
        stage = sum(record.closed > rules.end(ts, window) for window in rules.stages)
        if not self._reading_again and (known or stage == len(rules.stages)):
            self._drop("duplicate_impression" if known else "closed_impression")
            self._ignore(offset, forget)
            return
        if known:
            return
        entry = found or Entry(NO_OFFSET, 0, 0, 0)
        held = entry.marks.pop("", ())
        entry.offset, entry.ts, entry.stage, entry.value = offset, ts, stage, value
        entry.first_action = NO_OFFSET
        entry.due = rules.end(ts, rules.stages[stage]) if stage < len(rules.stages) else forget
        self.waiting += stage < len(rules.stages)
        for window in rules.stages[:stage]:
            if not self._reading_again:
                self._tally.dropped["closed_window"] += sum(task.window_ms == window for task in rules.tasks)
        for action_offset, action_ts, item, action, number, _ in held:
            self._apply(entry, rules, action_offset, action_ts, item, action, number)
        self._pending.put(request, entry)

    def _ignore(self, offset: int, until: int) -> None:
        """Remembers a dropped impression whose end is still to come, for whoever reads the log again."""
        ignored = self._record.ignored
        if until >= self._record.closed:
            ignored[offset] = until
            if len(ignored) > _MOST_IGNORED:
                del ignored[next(iter(ignored))]

    # Actions

    def _take_action(self, offset: int, message: dict[str, Any]) -> None:
        request, ts, action = message["request_id"], message["ts"], message["action"]
        item, value = id_text(message["item_id"]), message.get("value", 1.0)
        entry = self._pending.get(request)
        if entry is not None and entry.stage != AWAITING:
            if self._apply(entry, self._book.at(entry.offset), offset, ts, item, action, value):
                self._pending.put(request, entry)
            return
        rules = self._book.latest
        if action not in rules.uses:
            self._drop("unused_action")
            return
        closed = self._record.closed
        if not self._reading_again:
            self._tally.late += ts + rules.out_of_orderness_ms < closed
        due = rules.end(ts + rules.skew_ms, rules.stages[-1])
        if closed > due:
            self._drop("late_action")
            return
        if entry is None:
            entry = Entry(NO_OFFSET, 0, AWAITING, due, offset, marks={"": []})
        held = entry.marks[""]
        if len(held) >= _MOST_HELD:
            self._drop("too_many_early")
            return
        # what is read again may have met its impression before, so it is not counted when it goes
        held.append([offset, ts, item, action, value, None if self._reading_again else closed])
        entry.due = max(entry.due, due)
        self._pending.put(request, entry)

    def _apply(self, entry: Entry, rules: Rules, offset: int, ts: int, item: str, action: str, value: float) -> bool:
        """Lets an action change what is known of an impression; returns whether it did."""
        use = rules.uses.get(action)
        if use is None:
            self._drop("unused_action")
            return False
        if not -rules.skew_ms <= ts - entry.ts <= use.window_ms:
            self._drop("out_of_window")
            return False
        if item not in item_names(entry.value):
            self._drop("item_not_shown")
            return False
        tasks = [task for task in use.tasks if task.threshold is None or value >= task.threshold]
        if not tasks and not use.outcomes:
            self._drop("below_threshold")
            return False
        new, changed = entry.mark(item, ts, value, tasks, use.outcomes)
        if changed and (entry.first_action == NO_OFFSET or offset < entry.first_action):
            entry.first_action = offset
        if not self._reading_again:
            self._tell(entry, rules, use, ts, item, value, new, changed)
        if rules.eager and new and use.outcomes:
            entry.marks[item].setdefault("left", {}).update({outcome.name: value for outcome in use.outcomes})
        return changed

    def _tell(
        self, entry: Entry, rules: Rules, use: Use, ts: int, item: str, value: float, new: list[Task], changed: bool
    ) -> None:
        """Lets leave what an action causes at once, and counts what it does not cause."""
        end = rules.end(entry.ts, use.window_ms)
        late = self._record.closed > end
        brought = [(outcome, value) for outcome in use.outcomes]
        self._tally.late += late
        if late and new and self._record.closed <= end + rules.late_ms:
            self.out.append(positive_example(entry, rules, item, new, brought, ts, rules.correction_weight))
        elif late:
            self._drop("late_action")
        elif rules.eager and new:
            self.out.append(positive_example(entry, rules, item, new, brought, ts))
        elif not changed:
            self._drop("duplicate_action")

    def _drop(self, reason: str) -> None:
        if not self._reading_again:
            self._tally.dropped[reason] += 1
