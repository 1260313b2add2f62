"""Batches: however messages arrive, and wherever they are cut, the examples and their order are the same."""

import json

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from tests.definitions import batch_of, contents, message, small_definition
from trainer.batch import Batch
from trainer.features import Featurizer
from trainer.pending import Pending
from trainer.reader import Record

DEFINITION = small_definition()
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=25)
SEEDS = st.integers(0, 10**6)


def messages_of(seed: int, sizes: list[int]) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [message(rng, items=size) for size in sizes]


def plain_runs(sizes: list[int], size: int) -> list[list[int]]:
    """Runs of lists, each closed by the one that reaches the size; the last may be smaller."""
    runs: list[list[int]] = [[]]
    for one in sizes:
        if sum(runs[-1]) >= size:
            runs.append([])
        runs[-1].append(one)
    return runs


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES, size=st.integers(1, 40))
def test_cuts_are_runs_of_whole_lists_and_join_to_the_whole(seed, sizes, size):
    batch = batch_of(DEFINITION, messages_of(seed, sizes))
    parts = batch.cuts(size)
    assert [part.sizes.tolist() for part in parts] == plain_runs(sizes, size)
    assert [len(part) for part in parts] == [int(part.sizes.sum()) for part in parts]
    assert contents(Batch.join(parts)) == contents(batch)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES, size=st.integers(1, 20), data=st.data())
def test_joining_first_and_featurizing_piecewise_is_featurizing_at_once(seed, sizes, size, data):
    messages = messages_of(seed, sizes)
    whole = batch_of(DEFINITION, messages)
    ends = sorted(data.draw(st.sets(st.integers(1, len(messages)), max_size=4)) | {len(messages)})
    pieces = [batch_of(DEFINITION, messages[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert contents(Batch.join(pieces)) == contents(whole)
    first = data.draw(st.integers(0, len(messages) - 1))
    last = data.draw(st.integers(first + 1, len(messages)))
    assert contents(whole.lists(first, last)) == contents(batch_of(DEFINITION, messages[first:last]))


BROKEN = (b"{", b'{"ts": "x"}', None)
"""What a message may be replaced with; None: a value that its field cannot take."""


@settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    sizes=SIZES,
    size=st.integers(1, 15),
    faults=st.dictionaries(st.integers(0, 24), st.sampled_from(BROKEN), max_size=6),
    arrivals=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=8),
)
def test_runs_are_the_same_however_records_arrive(seed, sizes, size, faults, arrivals):
    records = []
    for i, value in enumerate(messages_of(seed, sizes)):
        if i in faults and faults[i] is None:
            value["items"][-1]["id"] = 0.5
        encoded = json.dumps(value).encode() if faults.get(i) is None else faults[i]
        records.append(Record("t", 0, i, 1_800_000_000_000, None, encoded))
    expected: list[list[int]] = [[]]
    examples = 0
    for i, some in enumerate(sizes):
        if examples >= size:
            expected.append([])
            examples = 0
        expected[-1].append(i)
        examples += 0 if i in faults else some
    featurizer = Featurizer(DEFINITION)
    queue = Pending(featurizer, [task.name for task in DEFINITION.tasks], 0)
    runs, left = [], records
    for count, takes in [*arrivals, (len(records), 0)]:
        queue.add(left[:count])
        left = left[count:]
        for _ in range(takes):
            if (run := queue.take(size)) is not None:
                runs.append(run)
    while (run := queue.take(size, whole=False)) is not None:
        runs.append(run)
    assert [[m.record.offset for m in run.messages] for run in runs] == expected
    for run in runs:
        sound = [json.loads(m.record.value) for m in run.messages if m.fault is None]
        assert {m.record.offset for m in run.messages if m.fault} == {m.record.offset for m in run.messages} & set(
            faults
        )
        if sound:
            assert contents(run.batch) == contents(batch_of(DEFINITION, sound))
        else:
            assert run.batch is None
