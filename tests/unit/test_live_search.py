"""Dimension search on the live stream: alpha, axes, plans, and that it goes on exactly where it was."""

import numpy as np
import pytest

from benchmarks.online_search import Run, far, live_definition
from embedding_store.plan import TablePlan
from embedding_store.proposal import PROPOSED
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import fields_of, occurrences
from trainer.learner import Learner
from trainer.live_search import LiveSearch
from trainer.metrics import TrainerMetrics
from trainer.search.live_table import BLOCKS, Descent, LiveTable, block_of, kept_by
from trainer.search.online import STATE, OnlineSearch, searched
from trainer.search.planted import make_truth
from trainer.search.settings import OnlineSearchSettings
from trainer.settings import TrainerSettings

TABLE = TableSettings(name="t", dim=4)
ALL = np.ones((BLOCKS, 4), dtype=np.bool_)
DESCENT = Descent(rate=0.02, penalty=1.2, every=1)


def test_alpha_falls_where_a_dimension_hurts_or_does_nothing_and_stays_where_it_helps():
    """The loss of a dimension that helps has its least at alpha = 1: its gradient there is zero, and it curves."""
    table = LiveTable(4)
    rng = np.random.default_rng(1)
    blocks = np.full(512, 3)
    for _ in range(100):
        sign = rng.choice([-1.0, 1.0], 512)
        vectors = np.ones((512, 4), dtype=np.float32)
        x = np.stack([sign - 0.3, sign, 0.05 * sign + 0.05, 0.01 * sign], 1)  # helps, is right, hurts, does nothing
        table.observe(blocks, vectors, x.astype(np.float32), False)
        table.descend(DESCENT, ALL)
    assert table.in_use()[3].tolist() == [True, True, False, False]
    assert (table.alpha[2] == 1.0).all()
    assert table.seen[3] == 100 * 512


def test_one_step_by_hand():
    """By -g(alpha) / mean |g| - penalty, with g = sum of x - x^2 (1 - alpha)."""
    table = LiveTable(2)
    table.alpha[0] = [0.5, 1.0]
    table.observe(
        np.zeros(1, dtype=np.int64), np.array([[2.0, 1.0]], np.float32), np.array([[0.5, -1.0]], np.float32), False
    )
    table.descend(Descent(rate=0.1, penalty=0.5, every=1, floor=0.1), np.ones((BLOCKS, 2), dtype=np.bool_))
    gradient = np.array([1.0 - 1.0 * 0.5, -1.0])
    wanted = np.clip(np.array([0.5, 1.0]) - 0.1 * (gradient / 0.75 + 0.5), 0.1, 1.0)
    np.testing.assert_allclose(table.alpha[0], wanted, rtol=1e-6)


def test_axes_are_those_that_the_blocks_use():
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    table = LiveTable(4)
    for _ in range(50):
        for block, used in ((2, 1), (5, 2)):
            numbers = rng.normal(size=(512, 4)) * (np.arange(4) < used)
            vectors = (numbers @ turn.T).astype(np.float32)
            table.observe(np.full(512, block), vectors, rng.normal(size=(512, 4)).astype(np.float32), True)
    table.align()
    np.testing.assert_allclose(np.abs(table.axes[:, :2].T @ turn[:, :2]).round(1), np.eye(2), atol=0.11)
    np.testing.assert_allclose(table.axes.T @ table.axes, np.eye(4), atol=1e-12)
    assert (table.alpha == 1.0).all()


def test_unknown_blocks_keep_what_the_next_more_frequent_known_one_keeps():
    table = LiveTable(4)
    table.alpha[:] = 0.1
    table.alpha[3, :1] = table.alpha[6, :3] = 1.0
    table.seen[[3, 6]] = 5_000
    kept = table.wanted(least=1_000, spare=0)
    assert kept is not None
    assert kept.sum(1).tolist() == [1] * 4 + [3] * (BLOCKS - 4)
    spared = table.wanted(least=1_000, spare=1)
    assert spared is not None
    assert spared.sum(1).tolist() == [2] * 4 + [4] * (BLOCKS - 4)
    assert table.plan(kept) == TablePlan((16,), ((0,), (0, 1, 2)))
    assert LiveTable(4).wanted(1_000, 1) is None


def test_a_block_begins_where_the_one_that_its_ids_come_from_is():
    table = LiveTable(4)
    some = np.zeros((1, 4), dtype=np.float32)
    table.observe(np.array([4]), some, some, False)
    table.alpha[4] = [0.9, 0.2, 0.1, 0.1]
    table.observe(np.array([5]), some, some, False)
    assert table.alpha[5].tolist() == [0.9, 0.2, 0.1, 0.1]
    assert (table.alpha[6] == 1.0).all()


def test_a_plan_by_blocks():
    assert kept_by(None, 4).all()
    kept = kept_by(TablePlan((8, 12), ((0,), (0, 1), (1, 2, 3))), 4)
    assert kept[0].tolist() == kept[2].tolist() == [True, False, False, False]
    assert kept[3].tolist() == [False, True, False, False]  # 8 to 15: both that the bound at 12 parts
    assert kept[4].tolist() == [False, True, True, True]
    table = LiveTable(4)
    assert np.array_equal(kept_by(table.plan(kept), 4), kept)


def test_ids_are_counted_in_the_block_that_they_have_reached():
    table = LiveTable(4)
    table.count(np.array([0, 0, 3]), np.array([1, 2, 4]))
    assert block_of(np.array([1, 2, 4])).tolist() == [0, 1, 2]
    assert table.reached[:3].tolist() == [1.0, 0.0, 1.0]


class Stream:
    """A shard under search that sees random examples whose gradients make numbers 0 and 1 of its vectors useful."""

    def __init__(self, settings: OnlineSearchSettings, layouts: bytes = b"") -> None:
        self.shard = Shard([TABLE], 7, layouts=layouts)
        self.search = OnlineSearch(self.shard, settings, ["t"], True)
        self.fields = fields_of([0])

    def see(self, seed: int, count: int = 512) -> None:
        rng = np.random.default_rng(seed)
        batch = occurrences([[int(key)] for key in rng.integers(0, 40, count)])
        rows = self.shard.lookup(batch, self.fields)
        vectors = self.shard.gather(rows, batch, self.fields)
        wanted = np.sign(np.sin(np.arange(40)[:, None] * np.arange(1, 5)))[batch.ids] * [0.5, 0.5, 0.0, 0.0]
        gradients = np.zeros_like(vectors)
        gradients[:, 0, 1:] = vectors[:, 0, 1:] - wanted + rng.normal(0, 0.7, (count, 4))
        self.search.observe(batch, rows, self.fields, vectors, gradients)
        times = np.full(count, 1000)
        updated = self.shard.sight(batch, rows, self.fields, times, np.arange(count, dtype=np.uint64))
        self.search.count(updated)
        self.shard.step(batch, rows, updated, gradients, self.fields)
        self.shard.pass_on(times)


SETTINGS = OnlineSearchSettings(align=(), interval=2_048, least=500, spare=1, gain=0.1)


def test_it_proposes_what_saves_and_goes_on_exactly_after_a_restore():
    one, proposals = Stream(SETTINGS), []
    other: Stream | None = None
    for batch in range(200):
        if batch == 130:
            parts = one.search.parts()
            other = Stream(SETTINGS, one.shard.layouts.to_json())
            for block in one.shard.take_changes()[0]:
                other.shard.apply(block)
            other.search.load(parts)
            assert other.search.parts() == parts
        for stream in (one, other):
            if stream is None:
                continue
            stream.see(batch)
            for found in stream.search.judge():
                stream.shard.set_plan(found.table, found.plan)
                if stream is one:
                    proposals.append(found)
        if other is not None:
            assert other.search.parts() == one.search.parts()
    assert proposals
    assert proposals[0].numbers < proposals[0].numbers_before == 160
    assert one.search.numbers("t") == 40 * 3
    assert {0, 1} < set(one.shard.layouts.plans["t"].kept[-1])


def test_a_search_that_is_switched_on_later_counts_the_ids_that_are_there():
    stream = Stream(SETTINGS)
    for batch in range(4):
        stream.see(batch)
    later = OnlineSearch(stream.shard, SETTINGS, ["t"], True)
    assert later.numbers("t") == stream.search.numbers("t") == 40 * 4
    assert later.tables["t"].reached.tolist() == stream.search.tables["t"].reached.tolist()


def test_a_plan_from_elsewhere_begins_alpha_anew_where_it_gives_dimensions():
    stream = Stream(OnlineSearchSettings(align=(), interval=1 << 30))
    stream.see(1)
    table = stream.search.tables["t"]
    table.alpha[:] = 0.2
    stream.shard.set_plan("t", TablePlan((), ((0, 1),)))
    stream.search.follow()
    assert table.alpha[5].tolist() == [0.2, 0.2, 0.0, 0.0]
    stream.shard.set_plan("t", None)
    stream.search.follow()
    assert table.alpha[5].tolist() == [0.2, 0.2, 1.0, 1.0]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    stream.shard.set_plan("t", TablePlan((), ((0, 1, 2, 3),), tuple(map(tuple, turn.tolist()))))
    stream.search.follow()
    assert (table.alpha == 1.0).all()
    assert np.array_equal(table.axes, turn)


def test_a_table_of_another_width_begins_anew():
    stream = Stream(SETTINGS)
    stream.see(1)
    parts = stream.search.parts()
    assert set(parts) == {STATE, PROPOSED}
    shard = Shard([TABLE.model_copy(update={"dim": 6})], 7)
    search = OnlineSearch(shard, SETTINGS, ["t"], True)
    search.load(parts)
    assert search.examples == 512
    assert search.tables["t"].seen.sum() == 0


def test_what_can_be_searched():
    tables = [TABLE, TableSettings(name="flat", dim=0), TableSettings(name="past", kind="sequence", dim=9)]
    assert searched(tables, ()) == ["t"]
    with pytest.raises(ValueError, match=r"trainer\.search\.tables: 'flat' is no table with vectors"):
        searched(tables, ("t", "flat"))
    with pytest.raises(ValueError, match=r"trainer\.dimension_search: no table has vectors"):
        searched(tables[1:], ())


def test_widths_of_planted_blocks_are_found_from_cold_and_follow_a_change():
    """Two blocks whose items use the first 1 and the first 4 axes of 8; then the frequent one uses 2."""
    truth = make_truth(4, (1, 4), sightings=(150, 1200), ids=40, users=200)
    run = Run.begin(live_definition(8), 4)
    run.search(OnlineSearchSettings(align=(60_000, 120_000), interval=10_000, rate=0.06))
    run.feed(truth, 220_000)
    assert far(run.widths(truth), truth) <= 1.0
    after = truth.changed((1, 2))
    run.feed(after, 100_000)
    assert far(run.widths(after), after) <= 1.0


class Taken:
    """A takeover that puts plans in force at once."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    def take(self, plans: dict[str, TablePlan]) -> None:
        self.shard.set_plans(plans)


@pytest.mark.parametrize("mode", ["off", "propose", "auto"])
def test_a_trainer_proposes_or_takes_over_and_tells(mode):
    model = live_definition(4)
    learner = Learner(model, Shard(model.tables, 1))
    settings = TrainerSettings(
        dimension_search=mode, search=OnlineSearchSettings(align=(512,), interval=1024, least=1, rate=0.3, gain=0.01)
    )
    metrics = TrainerMetrics(["click"])
    live = LiveSearch(settings, learner, Taken(learner.shard), metrics)  # type: ignore[arg-type]  # as far as asked
    run = Run(learner, np.random.default_rng(1))
    truth = make_truth(1, (1, 2), sightings=(5, 20), ids=10, users=10)
    for batch in run.batches(truth, 8192):
        learner.score_and_learn(batch)
        live.judge()
    metrics.refresh(learner.shard, {}, 0, learner.search)
    value = metrics.registry.get_sample_value
    plans = learner.shard.layouts.plans
    if mode == "off":
        assert not {STATE, PROPOSED} & set(learner.parts())
        assert not any(family.name.startswith("dolmen_search") for family in metrics.registry.collect())
        return
    assert {STATE, PROPOSED} < set(learner.parts())
    proposals = value("dolmen_search_proposals_total", {"table": "item"})
    assert proposals is not None
    assert bool(plans) == (mode == "auto")
    if mode == "propose":
        assert value("dolmen_plan_width", {"table": "item", "seen": "0"}) == 4
        assert value("dolmen_search_bytes", {"table": "item", "plan": "in force"}) == 4 * 4 * 20
        return
    assert value("dolmen_search_takeovers_total", {"table": "item"}) == proposals
    for bound, kept in zip((0, *plans["item"].bounds), plans["item"].kept, strict=True):
        assert value("dolmen_plan_width", {"table": "item", "seen": str(bound)}) == len(kept)
    in_force = value("dolmen_search_bytes", {"table": "item", "plan": "in force"})
    assert in_force is not None
    assert in_force < 4 * 4 * 20
