import pytest

from services.local.lifecycle import GiveUp, Lifecycle, Restart, RestartPolicy

POLICY = RestartPolicy(fatal_codes=frozenset({2, 3}))


def test_waits_double_and_stay_below_two_seconds():
    lifecycle = Lifecycle(POLICY, now_s=0.0)
    lifecycle.became_ready(1.0)
    decisions = [lifecycle.ended(-9, 2.0) for _ in range(40)]
    waits = [decision.delay_s for decision in decisions if isinstance(decision, Restart)]
    assert waits[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 1.6])
    assert len(waits) == 40
    assert max(waits) < 2.0


def test_a_child_that_was_ready_for_long_starts_with_the_first_wait_again():
    lifecycle = Lifecycle(POLICY, now_s=0.0)
    for now_s in (1.0, 2.0, 3.0):
        lifecycle.became_ready(now_s)
        lifecycle.ended(1, now_s + 0.5)
    lifecycle.became_ready(4.0)
    assert lifecycle.ended(1, 60.0) == Restart(0.1)


@pytest.mark.parametrize("code", [2, 3])
def test_a_fatal_exit_code_is_never_followed_by_a_restart(code):
    lifecycle = Lifecycle(POLICY, now_s=0.0)
    lifecycle.became_ready(1.0)
    assert isinstance(lifecycle.ended(code, 2.0), GiveUp)


def test_the_same_code_of_a_server_is_an_ordinary_death():
    assert isinstance(Lifecycle(RestartPolicy(), now_s=0.0).ended(2, 1.0), Restart)


def test_a_child_that_was_never_ready_is_given_up_at_the_fifth_death():
    lifecycle = Lifecycle(POLICY, now_s=0.0)
    decisions = [lifecycle.ended(1, float(now_s)) for now_s in range(5)]
    assert [type(decision) for decision in decisions] == [Restart] * 4 + [GiveUp]
    assert "5 times" in decisions[-1].why


def test_only_the_first_readiness_has_a_limit():
    lifecycle = Lifecycle(RestartPolicy(ready_limit_s=10.0), now_s=100.0)
    assert not lifecycle.overdue(110.0)
    assert lifecycle.overdue(110.1)
    lifecycle.became_ready(110.2)
    lifecycle.ended(1, 111.0)
    assert not lifecycle.ready
    assert not lifecycle.overdue(1000.0)
