"""The joiner's parts: requests that wait, keys, records, and how it begins."""

import random

import orjson
import pytest
from kafka.partitioner.default import murmur2

from services.joiner.entry import Entry
from services.joiner.opening import reconcile
from services.joiner.pending import Pending
from services.joiner.record import Record, Side
from services.joiner.rules import make_rules
from services.joiner.spill import Spill
from services.murmur import partitions_of
from services.settings import ConfigError, load_settings
from tests.streams import some_rules
from trainer.errors import LogLost
from trainer.topics import TopicState


@pytest.mark.parametrize("budget", [1 << 30, 20_000])
def test_requests_fall_due_in_order_in_memory_and_on_disk_alike(tmp_path, budget):
    rng = random.Random(1)
    pending = Pending(60_000, budget, lambda: Spill(tmp_path / "x.sqlite"))
    due: dict[str, int] = {}
    now = 0
    for number in range(3000):
        name = f"r{number}"
        due[name] = now + rng.randrange(90_000)
        pending.put(name, Entry(number, now, 0, due[name], value=b"x" * 50))
        some = rng.choice(list(due))
        entry = pending.get(some)
        assert entry is not None
        assert entry.due == due[some]
        if rng.random() < 0.5:
            entry.due = due[some] = entry.due + rng.randrange(1, 60_000)
            entry.first_action = number
            pending.put(some, entry)
        elif rng.random() < 0.1:
            pending.remove(some, entry)
            del due[some]
        if number % 10 == 0:
            now += rng.randrange(1_000)
            while (found := pending.pop_due(now)) is not None:
                assert due.pop(found[0]) == found[1].due < now
                pending.remove(*found)
            assert min(due.values(), default=now) >= now
        assert len(pending) == len(due)
    if budget < 1 << 30:
        assert pending.disk_len > 0
        assert pending.memory_bytes <= budget
    pending.close()
    assert list(tmp_path.iterdir()) == []


def test_offsets_to_read_again_from_are_never_past_what_waits():
    rng = random.Random(2)
    pending = Pending(30_000, 1 << 30)
    held: dict[str, tuple[int, int]] = {}
    for number in range(2000):
        name = f"r{number}"
        held[name] = (number, 10 * number)
        pending.put(name, Entry(number, 0, 0, 20 * number + rng.randrange(30_000), first_action=10 * number))
        while (found := pending.pop_due(20 * number)) is not None:
            pending.remove(*found)
            del held[found[0]]
        impression, action = pending.first_offsets()
        assert impression is not None
        assert action is not None
        assert impression <= min(pair[0] for pair in held.values())
        assert action <= min(pair[1] for pair in held.values())
    assert impression > 400  # nothing waits longer than 1500 records


def test_keys_go_where_kafkas_own_clients_put_them():
    rng = random.Random(3)
    keys = [rng.randbytes(rng.randrange(40)) for _ in range(1000)]
    assert partitions_of(keys, 7).tolist() == [(murmur2(key) & 0x7FFFFFFF) % 7 for key in keys]
    assert partitions_of([], 7).tolist() == []


def test_a_record_survives_its_bytes():
    record = Record(
        7,
        Side(9, 3, 1000, "id"),
        Side(4, 4, -1, None),
        900,
        {5: 1200},
        [(0, some_rules()), (4, some_rules({"like": 1}))],
    )
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("data", [b"[]", b'{"version": 99}', b'{"version": 1, "sequence": 3}'])
def test_what_is_no_record_of_this_version_is_refused(data):
    with pytest.raises(ValueError, match="state record"):
        Record.from_json(data)


NAMES = ("shown", "done")
STATES = {"shown": TopicState("s", (0,)), "done": TopicState("d", (0,))}
BOUNDS = {"shown": (10, 100), "done": (20, 200)}


def at() -> Record:
    return Record(3, Side(50, 40, 1000, "s"), Side(60, 30, 1000, "d"), 500, chapters=[(0, some_rules())])


def test_a_pair_that_was_never_joined_begins_at_the_first_record():
    record = reconcile(None, NAMES, STATES, BOUNDS, 0, "stop")
    assert (record.impressions, record.actions) == (Side(10, 10, -1, "s"), Side(20, 20, -1, "d"))


def test_a_record_whose_logs_are_whole_is_gone_on_from():
    assert reconcile(at(), NAMES, STATES, BOUNDS, 0, "stop") == at()


@pytest.mark.parametrize(
    ("states", "bounds", "said"),
    [
        ({**STATES, "shown": TopicState("other", (0,))}, BOUNDS, "Topic shown is not the one that was joined"),
        (STATES, {**BOUNDS, "done": (31, 200)}, "begins at offset 30, and the log at 31"),
        (STATES, {**BOUNDS, "shown": (10, 49)}, "joined up to 50, the log ends at 49"),
    ],
)
def test_a_log_that_lost_what_is_needed_stops_the_joiner_unless_told_otherwise(states, bounds, said):
    with pytest.raises(LogLost, match=said):
        reconcile(at(), NAMES, states, bounds, 0, "stop")
    record = reconcile(at(), NAMES, states, bounds, 0, "earliest")
    for side, name in zip((record.impressions, record.actions), NAMES, strict=True):
        assert bounds[name][0] <= side.rebuild <= side.next <= bounds[name][1]
        assert side.topic_id == states[name].topic_id


CONFIG = """
[[features]]
name = "user"
source = "user.id"
kind = "id"
[[tasks]]
name = "click"
[[tasks]]
name = "long_view"
action = "play"
threshold = 5.0
[[outcomes]]
name = "play_s"
action = "play"
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv("DOLMEN_CONFIG", raising=False)

    def loading(text: str):
        path = tmp_path / "dolmen.toml"
        path.write_text(CONFIG + text)
        return load_settings(path)

    return loading


def test_settings_become_rules(load):
    settings = load(
        '[joiner]\nattribution_window = {click = "60s", play = "5m"}\nnegatives = {click = 0.5}\nemit = "eager"'
    )
    rules = make_rules(settings.joiner, settings.tasks, settings.outcomes)
    assert [(t.name, t.action, t.threshold, t.window_ms, t.keep) for t in rules.tasks] == [
        ("click", "click", None, 60_000, 0.5),
        ("long_view", "play", 5.0, 300_000, 1.0),
    ]
    assert rules.eager
    assert rules.stages == (60_000, 300_000)
    assert rules.uses["play"].window_ms == 300_000
    assert rules.from_json(orjson.loads(orjson.dumps(rules.to_json()))) == rules


def test_how_a_label_is_made_is_no_part_of_what_defines_a_prediction(load):
    plain = load("")
    assert [task.threshold for task in plain.definition().tasks] == [None, None]
    assert plain.definition().to_json() == load('[joiner]\nlate_window = "1m"').definition().to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('attribution_window = {click = "60s"}', "joiner.attribution_window: no window for the action 'play'"),
        ("negatives = {buy = 0.5}", "joiner.negatives: there is no task 'buy'"),
        ("negatives = 0.0", "joiner.negatives"),
        ('emit = "sometimes"', "joiner.emit"),
    ],
)
def test_each_fault_of_the_joiners_settings_names_its_key(load, text, said):
    with pytest.raises(ConfigError) as fault:
        load(f"[joiner]\n{text}")
    assert said in str(fault.value)


def test_an_outcome_that_no_task_waits_for_is_a_fault(load):
    windows = 'attribution_window = {click = "1m", play = "1m", buy = "1d"}'
    text = f'[[outcomes]]\nname = "price"\naction = "buy"\n[joiner]\n{windows}'
    with pytest.raises(ConfigError, match="'buy' of the outcome 'price' waits longer than any task"):
        load(text)
