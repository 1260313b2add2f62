"""A pair of partitions without Kafka: logs as lists, transactions as records, and crashes."""

import orjson

from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Rules
from services.joiner.spill import Spill
from tests.streams import Behaviour


class Pair:
    """What a joiner process does with one pair, and what survives it.

    Args:
        behaviour: Both logs.
        rules: Of the joiner.
        spill: A directory for what does not fit into memory; None: all fits.
        most: Outputs of a transaction, about; None: any number.
    """

    def __init__(self, behaviour: Behaviour, rules: Rules, spill=None, most: int | None = 2) -> None:
        self.behaviour = behaviour
        self.rules = rules
        self.committed: list[bytes] = []
        self.record = b""
        self.tally = Tally()
        self._spill = spill
        self._most = most
        self.start()

    def start(self) -> None:
        """A process begins: from the record, with its state read again."""
        record = Record.from_json(self.record) if self.record else Record()
        budget = 3_000 if self._spill else 1 << 30
        disk = (lambda: Spill(self._spill / "pair.sqlite")) if self._spill else None
        self.pending = Pending(self.rules.horizon_ms, budget, disk)
        self.join = Join(record, self.rules, self.pending, self.tally)
        self.join.read_again(True)
        for offset in range(record.impressions.rebuild, record.impressions.next):
            self._impression(offset)
        for offset in range(record.actions.rebuild, record.actions.next):
            self._action(offset)
        self.join.read_again(False)
        self.next = [record.impressions.next, record.actions.next]

    def step(self, side: int) -> bool:
        """Consumes the next record of one log; False at its end."""
        log = (self.behaviour.impressions, self.behaviour.actions)[side]
        if self.next[side] == len(log):
            return False
        (self._impression, self._action)[side](self.next[side])
        self.next[side] += 1
        self.settle()
        return True

    def give_way(self) -> None:
        """The lower partition gives way."""
        self.join.give_way()
        self.settle()

    def settle(self) -> None:
        """Lets leave what is due, a little at a time."""
        while not self.join.settle(self._most):
            self.commit()

    def commit(self) -> None:
        """One transaction."""
        self.record = self.join.record.to_json()
        self.committed += [value for _, value in self.join.out]
        self.join.out.clear()

    def run(self, sides) -> "Pair":
        """Consumes by a list of sides, then what is left."""
        for side in sides:
            self.step(side)
        while self.step(0) or self.step(1):
            pass
        self.commit()
        return self

    def _impression(self, offset: int) -> None:
        message = self.behaviour.impressions[offset]
        self.join.impression(offset, message, orjson.dumps(message))

    def _action(self, offset: int) -> None:
        self.join.action(offset, self.behaviour.actions[offset])
