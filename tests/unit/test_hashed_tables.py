"""Tables whose ids are hashed into buckets, in a running model: one place turns ids into buckets, for all who score."""

import numpy as np
import pytest

from embedding_store.encodings.hashed import buckets_of, salt_of
from embedding_store.errors import DefinitionConflict
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.definitions import FEATURES, batch_of, feature, full_definition, hashed, lived_batch, small_definition
from trainer.definition import Definition
from trainer.learner import Learner
from trainer.restore import reconcile


def learned(definition: Definition, batches: list) -> Learner:
    learner = Learner(definition, Shard(definition.tables, definition.seed))
    for batch in batches:
        learner.score_and_learn(batch)
    return learner


def messages(users: list[int], items: list[int]) -> list[dict]:
    return [
        {"ts": n, "user": {"id": user}, "items": [{"id": item, "labels": {"click": n % 2, "like": 0}}]}
        for n, (user, item) in enumerate(zip(users, items, strict=True))
    ]


def test_a_hashed_table_learns_as_one_whose_ids_were_hashed_before():
    plain = small_definition(features=FEATURES[:2])
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, 50, 200).tolist(), rng.integers(0, 50, 200).tolist()
    before = buckets_of(np.array(items), salt_of("video", plain.seed), 7).tolist()
    live = hashed(plain, video=7)
    with_ids = learned(live, [batch_of(live, messages(users, items))])
    with_buckets = learned(plain, [batch_of(plain, messages(users, before))])
    assert set(before) == set(range(7))
    assert with_ids.shard.counts.tolist() == with_buckets.shard.counts.tolist() == [len(set(users)), 7]
    request, again = batch_of(live, messages(users, items)), batch_of(plain, messages(users, before))
    assert (with_ids.scorer.probabilities(request) == with_buckets.scorer.probabilities(again)).all()


def test_statistics_crosses_and_the_past_go_by_the_ids_themselves():
    plain = full_definition("din")
    live = hashed(plain, user=2, video=3)
    batches = [lived_batch(plain, seed) for seed in range(6)]
    rows = [
        dict(zip([t.name for t in some.shard.tables], some.shard.counts.tolist(), strict=True))
        for some in (learned(plain, batches), learned(live, batches))
    ]
    assert rows[0]["user"] == 4
    assert rows[1] == rows[0] | {"user": rows[1]["user"], "video": rows[1]["video"]}
    assert rows[1]["user"] <= 2
    assert rows[1]["video"] <= 3


def test_an_item_of_the_past_has_the_row_of_the_item_itself():
    definition = hashed(
        small_definition((*FEATURES[:2], feature("past", "sequence", table="video", of="click", length=2))), video=5
    )
    learner = learned(definition, [batch_of(definition, [messages([1], [9])[0] | {"ts": 1}])])
    clicked = messages([1, 1], [9, 9])[1:]
    learner.score_and_learn(batch_of(definition, clicked))
    embedded = learner.scorer.embedder.embed(batch_of(definition, clicked))
    ids = embedded.occurrences.ids
    assert ids[1] == ids[2] == buckets_of(np.array([9]), salt_of("video", definition.seed), 5)[0]


@pytest.mark.parametrize(
    "encoding", [{"kind": "uniform", "dim": 2}, {"kind": "hashed", "buckets": 9, "hashes": 2}, {"kind": "int8"}]
)
def test_a_live_table_takes_no_other_encoding_and_says_what_does(encoding):
    tables = [TableSettings.model_validate({"name": "video", "encoding": encoding})]
    with pytest.raises(ValueError, match=r"tables\.video\.encoding: a live table takes kind hashed with one hash"):
        small_definition(features=FEATURES[1:2], tables=tables)


@pytest.mark.parametrize(("before", "after"), [(None, 7), (7, None), (7, 8)])
def test_rows_of_other_buckets_cannot_go_on(before, after):
    plain = small_definition(features=FEATURES[:2])
    stored, wanted = (hashed(plain, video=n) if n else plain for n in (before, after))
    with pytest.raises(DefinitionConflict, match=r"tables\.video\.encoding: .*`dolmen store drop video --yes`"):
        reconcile(wanted, stored.to_json())
    assert reconcile(wanted, wanted.to_json()) == wanted
