"""What the joiner's state machine always does, on random behaviour."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pairs import Pair
from tests.streams import behave, labels_of, ordered, plain_join, some_rules, without_told

SIDES = st.lists(st.integers(0, 1), max_size=120)
SEEDS = st.integers(0, 1 << 32)
WINDOWS = st.sampled_from([{}, {"click": 3_000}, {"like": 30_000, "play": 1_000}])
FATES = st.lists(st.sampled_from(["impression", "action", "give way", "commit", "crash"]), max_size=200)


def final(behaviour):
    """The closing watermark once both logs were read."""
    logs = (behaviour.impressions, behaviour.actions)
    return min(max((message["ts"] for message in log), default=-1) for log in logs)


@settings(deadline=None, max_examples=150)
@given(SEEDS, SIDES, WINDOWS, st.booleans(), st.booleans())
def test_examples_are_those_of_a_plain_join_in_whatever_order_both_logs_are_read(seed, sides, windows, disk, skewed):
    rules = some_rules(windows, skew_ms=2_000 if skewed else 0)
    behaviour = behave(seed, impressions=25, disorder_ms=rules.out_of_orderness_ms)
    with tempfile.TemporaryDirectory() if disk else nullcontext() as name:
        pair = Pair(behaviour, rules, Path(name) if name else None).run(sides)
        pair.pending.close()
    assert without_told(pair.committed) == ordered(plain_join(behaviour, rules, final(behaviour)))
    assert pair.tally.late == 0


@settings(deadline=None, max_examples=100)
@given(SEEDS, SIDES, WINDOWS)
def test_eager_tells_the_same_labels_each_once(seed, sides, windows):
    rules = some_rules(windows, eager=True)
    behaviour = behave(seed, impressions=25, disorder_ms=rules.out_of_orderness_ms)
    pair = Pair(behaviour, rules).run(sides)
    told = labels_of(without_told(pair.committed))
    wanted = labels_of(plain_join(behaviour, rules, final(behaviour)))
    closed = {(request, item, task) for request, item, task, _ in wanted}
    assert [label for label in told if label[:3] in closed] == wanted
    assert all(label == 1 for *place, label in told if tuple(place) not in closed)


@settings(deadline=None, max_examples=300)
@given(SEEDS, FATES, WINDOWS, st.booleans(), st.sampled_from([0, 4_000]), st.booleans())
def test_crashes_at_any_moment_change_nothing(seed, fates, windows, eager, late_ms, disk):
    rules = some_rules(windows, eager=eager, late_ms=late_ms)
    behaviour = behave(seed, impressions=25, disorder_ms=8_000, duplicates=0.3)
    with tempfile.TemporaryDirectory() if disk else nullcontext() as name:
        stormy = Pair(behaviour, rules, Path(name) if name else None, most=None)
        survived, since = [], []
        for fate in fates:
            since.append(fate)
            if fate == "crash":
                stormy.pending.close()
                stormy.start()
                since = []
            elif fate == "commit":
                stormy.commit()
                survived += since
                since = []
            elif fate == "give way":
                stormy.give_way()
            else:
                stormy.step(fate == "action")
        survived += since
        stormy.run([])
        stormy.pending.close()
    calm = Pair(behaviour, rules)
    for fate in survived:
        if fate == "give way":
            calm.give_way()
        elif fate != "commit":
            calm.step(fate == "action")
    calm.run([])
    assert ordered_all(stormy.committed) == ordered_all(calm.committed)


def ordered_all(messages):
    """Whole messages, sorted."""
    return sorted(messages)
