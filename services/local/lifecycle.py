"""When a child that ended is started again, and when that is given up. Pure: time is passed in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The limits.

    Attributes:
        first_delay_s: Wait after a first death; it doubles with each further one.
        longest_delay_s: What it never exceeds.
        deaths_before_ready: So many before a child was ever ready are too many.
        ready_limit_s: A child must have been ready once within this time.
        steady_s: A child that was ready for so long starts with the first delay again.
        fatal_codes: Exit codes after which a restart would not help.
    """

    first_delay_s: float = 0.1
    longest_delay_s: float = 1.6
    deaths_before_ready: int = 5
    ready_limit_s: float = 180.0
    steady_s: float = 10.0
    fatal_codes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the child again after a wait."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start it again."""

    why: str


class Lifecycle:
    """What is remembered of one child over its restarts.

    Args:
        policy: The limits.
        now_s: Time of the first start, on any monotonic clock.

    Attributes:
        ready: Whether the present run is ready.
        was_ready: Whether any run was.
    """

    def __init__(self, policy: RestartPolicy, now_s: float) -> None:
        self._policy = policy
        self._born_s = now_s
        self._ready_s = now_s
        self._deaths = 0
        self.ready = False
        self.was_ready = False

    def became_ready(self, now_s: float) -> None:
        """The present run is ready."""
        self.ready = self.was_ready = True
        self._ready_s = now_s

    def ended(self, exit_code: int, now_s: float) -> Restart | GiveUp:
        """The present run has ended; what to do."""
        if self.ready and now_s - self._ready_s >= self._policy.steady_s:
            self._deaths = 0
        self.ready = False
        self._deaths += 1
        if exit_code in self._policy.fatal_codes:
            return GiveUp("a restart would not help")
        if not self.was_ready and self._deaths >= self._policy.deaths_before_ready:
            return GiveUp(f"it ended {self._deaths} times before it was ready")
        return Restart(min(self._policy.first_delay_s * 2 ** min(self._deaths - 1, 16), self._policy.longest_delay_s))

    def overdue(self, now_s: float) -> bool:
        """Whether the child should have been ready for the first time by now."""
        return not self.was_ready and now_s - self._born_s > self._policy.ready_limit_s
