"""A list whose labels leave one by one: nothing of its own is in what its later examples are learned beside."""

import random
from typing import Any

import numpy as np
import orjson
import pytest

from embedding_store.shard import Shard
from services.joiner.join import Join, Tally
from services.joiner.pending import Pending
from services.joiner.record import Record
from services.joiner.rules import Outcome, Rules, Task
from tests.definitions import feature, statistic
from trainer.batch import Batch
from trainer.definition import Definition, define
from trainer.errors import BadRecord
from trainer.example import examples_to_columns, parse_example
from trainer.learner import Learner
from trainer.settings import ModelSettings, TaskSettings
from trainer.validation import auc

TASKS = ("click", "like")
BEGIN_MS = 1_700_000_000_000
STEP_MS = 60_000
DEFINITION = define(
    (),
    (
        feature("user", source="user.id"),
        feature("item", source="item.id"),
        feature("author", source="item.author"),
        feature("past", "sequence", table="item", of="click", length=3),
    ),
    tuple(TaskSettings(name=task) for task in TASKS),
    ModelSettings(name="din", hidden=(4,)),
    3,
    statistics=(
        statistic("rate", "user", "rate", of="labels.click", prior=(0.4, 4)),
        statistic("faded", "author", "rate", of="labels.click", prior=(0.4, 1), half_life="1m"),
        statistic("seen", "user", "count"),
        statistic("shown", "item", "count", window="5m"),
        statistic("play", "author", "mean", of="outcomes.play_s", prior=(1, 2), window="10m"),
        statistic("play_clicked", "user", "mean", of="outcomes.play_s", where="labels.click = 1", prior=(1, 2)),
        statistic("last", "user", "last", of="labels.click", length=2, buckets=(0.5,)),
        statistic("gap", "user", "since", transform="log"),
        statistic("click_gap", "author", "since", where="labels.click = 1", transform="log"),
    ),
)


def rules(eager: bool, windows: tuple[int, int] = (10_000, 10_000), late_ms: int = 0) -> Rules:
    """A click, a like, and how long was played."""
    tasks = (Task("click", "click", None, windows[0], 1.0), Task("like", "like", None, windows[1], 1.0))
    return Rules(tasks, (Outcome("play_s", "play", 10_000),), eager, 2_000, 0, late_ms, 1.0)


def behave(seed: int, lists: int, size: int = 5) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Lists one after the other, each with what came of it. An item may be there twice; what is clicked comes first."""
    rng = random.Random(seed)
    found = []
    for n in range(lists):
        ids = rng.sample(range(8), size)
        ids[1] = ids[0] if rng.random() < 0.4 else ids[1]
        ts = BEGIN_MS + STEP_MS * n
        items = [{"id": f"i{i}", "author": i % 3} for i in ids]
        clicked = list(dict.fromkeys(ids))[: rng.choice([0, 1, 1, 2])]
        later = [i for i in ids if i not in clicked]
        shown = [item for i in (*clicked, *later) for item in items if item["id"] == f"i{i}"]
        shown = list({id(item): item for item in shown}.values())
        actions = [("click", i, 1.0, 1_000 + 100 * k) for k, i in enumerate(clicked)]
        actions += [("like", i, 1.0, 3_000) for i in clicked if rng.random() < 0.3]
        actions += [("play", i, float(rng.randrange(1, 30)), 5_000) for i in set(ids) if rng.random() < 0.5]
        head = {"request_id": f"r{n}", "ts": ts, "user": {"id": n % 2}}
        acted = [
            {"request_id": f"r{n}", "ts": ts + after, "item_id": f"i{i}", "action": action, "value": value}
            for action, i, value, after in sorted(actions, key=lambda one: one[3])
        ]
        found.append((head | {"items": shown}, acted))
    return found


def joined(behaviour: list[tuple[dict[str, Any], list[dict[str, Any]]]], how: Rules) -> list[dict[str, Any]]:
    """What the joiner makes of it; every list closes before the next one's first action."""
    join = Join(Record(), how, Pending(how.horizon_ms, 1 << 30), Tally())
    for shown, acted in [*behaviour, ({"request_id": "end", "ts": BEGIN_MS * 2, "user": {}, "items": [{"id": 0}]}, [])]:
        join.impression(join.sides[0].next, shown, orjson.dumps(shown))
        for action in [{**shown, "item_id": "?", "action": "click"}, *acted]:
            join.action(join.sides[1].next, action)
            join.settle()
    return [parse_example(value, TASKS) for _, value in join.out]


def learner_of(definition: Definition = DEFINITION) -> Learner:
    return Learner(definition, Shard(definition.tables, definition.seed, learning=True))


def batch_of(learner: Learner, messages: list[dict[str, Any]]) -> Batch:
    columns = examples_to_columns(messages, learner.scorer.featurizer.sources, TASKS)
    return learner.scorer.featurizer.featurize(columns)


def beside(learner: Learner, batch: Batch) -> list[tuple[Any, ...]]:
    """What each example is learned beside: numbers, ids of statistics, and the past."""
    remembered = learner.scorer.embedder.stream.read(batch)
    assert remembered.past is not None
    fields = len(learner.scorer.featurizer.fields)
    ids = remembered.occurrences.ids.reshape(-1, fields)
    return [
        (
            *np.round(np.nan_to_num(remembered.numbers[b], nan=-1), 5).tolist(),
            *ids[b].tolist(),
            *remembered.past.items[b].tolist(),
            int(remembered.past.counts[b]),
        )
        for b in range(len(batch))
    ]


def lived(messages: list[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """What each label was learned beside, by request, item and task."""
    learner, found = learner_of(), {}
    for batch, some in cut(learner, messages, 1):
        items = [(message["request_id"], item) for message in some for item in message["items"]]
        for (request, item), inputs in zip(items, beside(learner, batch), strict=True):
            found |= {(request, item["id"], task): inputs for task in item["labels"]}
        learner.score_and_learn(batch)
    return found


def cut(learner: Learner, messages: list[dict[str, Any]], size: int) -> list[tuple[Batch, list[dict[str, Any]]]]:
    done, found = 0, []
    for batch in batch_of(learner, messages).cuts(size):
        found.append((batch, messages[done : done + batch.sizes.size]))
        done += batch.sizes.size
    return found


@pytest.mark.parametrize(("windows", "size"), [((10_000, 10_000), 5), ((10_000, 20_000), 3)])
def test_every_label_is_learned_beside_the_same_whether_it_leaves_with_its_list_or_alone(windows, size):
    behaviour = behave(3, 60, size)  # so that no user has more than SPARE labels that left early
    whole = lived(joined(behaviour, rules(eager=False)))
    torn = joined(behaviour, rules(eager=True, windows=windows))
    assert len(torn) > 80
    assert lived(torn) == whole


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("windows", [(10_000, 10_000), (10_000, 20_000)])
def test_what_is_told_is_what_left_before(eager, windows):
    left: dict[str, dict[str, Any]] = {}
    for message in joined(behave(6, 80), rules(eager, windows)):
        known = left.setdefault(message["request_id"], {})
        told = {item["id"]: (item["labels"], item.get("outcomes", {})) for item in message.get("told", [])}
        assert told == known
        for item in message["items"]:
            labels, outcomes = known.get(item["id"], ({}, {}))
            known[item["id"]] = labels | item["labels"], outcomes | item.get("outcomes", {})


def test_a_batch_ends_before_a_message_that_tells_of_a_list_in_it():
    learner = learner_of()
    messages = joined(behave(3, 20), rules(eager=True))
    for batch, some in cut(learner, messages, 1000):
        assert batch.sizes.size == len(some)
        seen: set[str] = set()
        for message in some:
            assert not ("told" in message and message["request_id"] in seen)
            seen.add(message["request_id"])


def coins(seed: int, lists: int) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Lists that have one click each or none, as a coin falls; who sees them and what is in them says nothing."""
    rng = random.Random(seed)
    found = []
    for n in range(lists):
        shown = {
            "request_id": f"r{n}",
            "ts": BEGIN_MS + STEP_MS * n,
            "user": {"id": n % 3},
            "items": [{"id": f"i{rng.randrange(50)}", "author": k} for k in range(2)],
        }
        act = {"request_id": f"r{n}", "ts": shown["ts"] + 1_000, "action": "click"}
        found.append((shown, [{**act, "item_id": shown["items"][0]["id"]}] if rng.random() < 0.5 else []))
    return found


def test_a_zero_does_not_know_whether_its_list_had_a_click():
    messages = joined(coins(5, 150), rules(eager=True))
    quality = []
    for deaf in (False, True):
        learner, scores, truth = learner_of(), [], []
        for message in messages:
            heard = {k: v for k, v in message.items() if k != "told"} if deaf else message
            if not all(item["labels"] for item in message["items"]):
                continue
            second = message["items"][-1]["author"] == 1
            batch = batch_of(learner, [heard])
            if second:
                inputs = beside(learner, batch)[-1]
                scores.append(-inputs[learner.scorer.featurizer.numbers.index("gap")])
                truth.append(float("told" in message))
            learner.score_and_learn(batch)
        quality.append(auc(np.array(truth[10:]), np.array(scores[10:])))
    assert 0.42 < quality[0] < 0.58
    assert quality[1] > 0.9  # so the stream does catch it


def test_a_correction_is_learned_beside_what_was_there_before_its_list():
    behaviour = behave(4, 30)
    shown, acted = behaviour[10][0], [action for action in behaviour[10][1] if action["action"] == "click"][:1]
    behaviour[10] = shown, acted
    item = next(i["id"] for i in shown["items"] if i["id"] not in {a["item_id"] for a in acted})
    late = {"request_id": "r10", "ts": shown["ts"] + 9_000, "item_id": item, "action": "click", "value": 1.0}
    timely = lived(joined([*behaviour[:10], (shown, [*acted, late]), *behaviour[11:]], rules(eager=True)))
    behaviour[11] = (behaviour[11][0], [*behaviour[11][1], late])
    messages = joined(behaviour, rules(eager=True, late_ms=10 * STEP_MS))
    (place,) = [n for n, message in enumerate(messages) if message["items"][0].get("correction")]
    learner = learner_of()
    for message in messages[:place]:
        learner.score_and_learn(batch_of(learner, [message]))
    batch = batch_of(learner, [messages[place]])
    user = learner.scorer.featurizer.numbers.index("seen")
    assert beside(learner, batch)[0][user] == timely["r10", item, "click"][user]
    before = beside(learner, batch_of(learner, [{**messages[place], "told": []}]))[0][user]
    learner.score_and_learn(batch)
    assert beside(learner, batch_of(learner, [{**messages[place], "told": []}]))[0][user] == before  # no sighting


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"told": {}}, "`told` must be a list of items, got an object"),
        ({"told": [3]}, "`told[0]` must be an object, got the integer 3"),
        ({"told": [{}]}, "`told[0].id` is missing"),
        ({"told": [{"id": 1, "labels": []}]}, "`told[0].labels` must be an object, got a list"),
        ({"told": [{"id": 1, "outcomes": 2}]}, "`told[0].outcomes` must be an object, got the integer 2"),
        ({"told": [{"id": 1}], "request_id": None}, "`request_id` is missing"),
        ({"told": [{"id": 2}], "items": [{"id": 1, "labels": {}}]}, "`items[0].labels` has none of the tasks"),
    ],
)
def test_a_fault_of_what_is_told_names_its_place(change, said):
    message = {"request_id": "r", "ts": 1, "user": {}, "items": [{"id": 1, "labels": {"click": 1}}]}
    with pytest.raises(BadRecord) as fault:
        parse_example(orjson.dumps(message | change), TASKS)
    assert said in str(fault.value)


def test_outcomes_that_come_after_their_label_reach_statistics():
    shown = {"request_id": "r", "ts": BEGIN_MS, "user": {"id": 1}, "items": [{"id": "a", "author": 1}, {"id": "b"}]}
    acts = [("click", 1_000, 1.0), ("like", 1_500, 1.0), ("play", 2_000, 25.0)]
    acted = [
        {"request_id": "r", "ts": BEGIN_MS + after, "item_id": "a", "action": action, "value": value}
        for action, after, value in acts
    ]
    messages = joined([(shown, acted)], rules(eager=True))
    assert [[item["labels"] for item in message["items"]] for message in messages] == [
        [{"click": 1}],
        [{"like": 1}],
        [{}, {"click": 0, "like": 0}],
    ]
    learner = learner_of()
    for message in messages:
        learner.score_and_learn(batch_of(learner, [message]))
    numbers = learner.scorer.featurizer.numbers
    after = beside(learner, batch_of(learner, [messages[0] | {"request_id": "next", "ts": BEGIN_MS + STEP_MS}]))[0]
    assert after[numbers.index("play_clicked")] == pytest.approx((25 + 2) / (1 + 2), abs=1e-4)
    assert after[numbers.index("seen")] == pytest.approx(2)
    assert after[numbers.index("rate")] == pytest.approx((1 + 1.6) / (2 + 4), abs=1e-4)
