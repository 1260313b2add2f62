"""A stored shard under a changed configuration: what goes on, what begins empty, what stops."""

import pytest

from embedding_store.errors import DefinitionConflict
from embedding_store.settings import SPARE, TableSettings
from tests.definitions import FEATURES, feature, full_definition, small_definition, statistic
from trainer.definition import Definition, define
from trainer.restore import describe_changes, reconcile
from trainer.settings import ModelSettings, TaskSettings

USER, VIDEO = feature("user", source="user.id"), feature("video", source="item.id")


def small(*features, **tables):
    return small_definition(features, [TableSettings(name=name, **more) for name, more in tables.items()])


def test_an_empty_store_takes_the_configuration_as_it_is():
    assert reconcile(small_definition(), b"") == small_definition()
    assert describe_changes(b"", small_definition()) == []


def test_an_unchanged_configuration_goes_on_unchanged():
    definition = small_definition()
    assert reconcile(definition, definition.to_json()) == definition
    assert describe_changes(definition.to_json(), definition) == []


def test_a_table_that_is_no_longer_used_is_retired_and_kept():
    before, after = small(USER, VIDEO), small(USER)
    going_on = reconcile(after, before.to_json())
    assert [t.name for t in going_on.tables] == ["user"]
    assert [t.name for t in going_on.retired] == ["video"]
    assert describe_changes(before.to_json(), going_on) == [
        "table 'video' is no longer used; its rows stay until `dolmen store drop video --yes`",
        "feature 'video' is gone",
    ]


def test_a_retired_table_stays_retired_and_comes_back_when_it_is_used_again():
    first = small(USER, VIDEO)
    second = reconcile(small(USER), first.to_json())
    third = reconcile(small(USER), second.to_json())
    assert third.retired == second.retired
    assert third == second
    fourth = reconcile(first, third.to_json())
    assert fourth == first
    assert describe_changes(third.to_json(), fourth) == ["feature 'video' is new"]


def test_a_new_table_and_feature_begin_empty():
    before, after = small(USER), small(USER, VIDEO)
    going_on = reconcile(after, before.to_json())
    assert going_on == after
    assert describe_changes(before.to_json(), going_on) == [
        "table 'video' is new and begins empty",
        "feature 'video' is new",
    ]


def test_another_width_stops_and_names_key_and_remedy():
    before = small(USER, VIDEO, user={"dim": 4}, video={"dim": 2})
    after = small(USER, VIDEO, user={"dim": 4}, video={"dim": 3})
    with pytest.raises(
        DefinitionConflict, match=r"tables\.video\.dim: .* made with 2, .* asks for 3; set it back, or"
    ) as e:
        reconcile(after, before.to_json())
    assert "`dolmen store drop video --yes`" in str(e.value)


def test_every_conflict_is_told_at_once():
    before = small(USER, VIDEO, user={"dim": 4}, video={"dim": 2})
    after = small(USER, VIDEO, user={"dim": 5}, video={"dim": 3})
    with pytest.raises(DefinitionConflict) as e:
        reconcile(after, before.to_json())
    assert [line.split(":")[0] for line in str(e.value).splitlines()] == ["tables.user.dim", "tables.video.dim"]


def test_a_retired_table_that_comes_back_with_another_width_stops_too():
    before = reconcile(small(USER), small(USER, VIDEO, video={"dim": 2}).to_json())
    with pytest.raises(DefinitionConflict, match=r"tables\.video\.dim"):
        reconcile(small(USER, VIDEO, video={"dim": 3}), before.to_json())


def test_settings_that_rows_do_not_depend_on_may_change():
    before = small(USER, user={"learning_rate": 0.1, "expire_after": "1d"})
    after = small(USER, user={"learning_rate": 0.2, "expire_after": "2d"})
    assert reconcile(after, before.to_json()) == after


@pytest.mark.parametrize("stored", [b"{", b"{}", b'{"tables": [{"name": "t", "dim": -1}], "seed": 1}', b"[]", b'"x"'])
def test_a_definition_that_cannot_be_read_stops(stored):
    with pytest.raises(DefinitionConflict, match="cannot be read by this version"):
        reconcile(small_definition(), stored)


def learned(*features, statistics=(), tasks=("click",), **model) -> Definition:
    some = tuple(TaskSettings(name=name) for name in tasks)
    return define((), features or (USER, VIDEO), some, ModelSettings.model_validate(model), 1, statistics=statistics)


def accumulated(definition: Definition, table: str) -> list[str]:
    found = next(t for t in (*definition.tables, *definition.retired) if t.name == table)
    return [f"{a.kind} {a.of}" for a in found.accumulators]


def test_a_definition_with_everything_goes_on_unchanged():
    definition = full_definition()
    assert reconcile(definition, definition.to_json()) == definition
    assert describe_changes(definition.to_json(), definition) == []


def test_a_new_statistic_comes_behind_what_the_table_has():
    rate = statistic("rate", "user", "rate", of="labels.click")
    plays, gap = statistic("a_plays", "user", "mean", of="outcomes.play"), statistic("gap", "user", "since")
    before = learned(statistics=(rate,))
    after = reconcile(learned(statistics=(plays, rate, gap)), before.to_json())
    assert accumulated(before, "by.user") == ["sum labels.click", "count labels.click"]
    assert accumulated(after, "by.user") == [
        "sum labels.click", "count labels.click", "sum outcomes.play", "count outcomes.play", "time 1"
    ]  # fmt: skip
    assert [table.dim for table in after.tables if table.name == "by.user"] == [2 + 4 * 2 + (1 + SPARE) * 2]
    assert describe_changes(before.to_json(), after) == [
        f"statistic {name!r} is new, or takes in something else; what was not gathered yet begins empty"
        for name in ("a_plays", "gap")
    ]


def test_a_statistic_that_is_gone_keeps_its_place_and_comes_back_to_it():
    rate, gap = statistic("rate", "user", "rate", of="labels.click"), statistic("gap", "user", "since")
    before = learned(statistics=(rate, gap))
    second = reconcile(learned(statistics=(gap,)), before.to_json())
    assert accumulated(second, "by.user") == accumulated(before, "by.user")
    assert describe_changes(before.to_json(), second) == [
        "statistic 'rate' is gone; what only it gathered stays until `dolmen store drop by.user --yes`"
    ]
    third = reconcile(learned(statistics=()), second.to_json())
    assert accumulated(third, "by.user") == accumulated(before, "by.user")
    assert [table.name for table in third.retired] == ["by.user"]
    assert reconcile(before, third.to_json()) == before
    assert reconcile(second, second.to_json()) == second


def test_settings_of_a_statistics_table_may_change_while_it_grows():
    rate, gap = statistic("rate", "user", "rate", of="labels.click"), statistic("gap", "user", "since")
    before = learned(statistics=(rate,)).to_json()
    table, click = TableSettings(name="by.user", expire_after="2d"), (TaskSettings(name="click"),)
    after = reconcile(define((table,), (USER, VIDEO), click, ModelSettings(), 1, statistics=(gap,)), before)
    assert next(t.expire_after for t in after.tables if t.name == "by.user") == 2 * 86_400_000
    assert accumulated(after, "by.user") == ["sum labels.click", "count labels.click", "time 1"]


def test_a_statistics_table_that_would_grow_too_wide_stops():
    some = [statistic(f"s{n}", "user", "mean", of="labels.click", unit=n + 1, window="1h") for n in range(210)]
    before = learned(statistics=some[:100]).to_json()
    with pytest.raises(DefinitionConflict, match=r"statistics by user: .* `dolmen store drop by\.user --yes`"):
        reconcile(learned(statistics=some[100:]), before)
    assert len(accumulated(reconcile(learned(statistics=some[:50]), before), "by.user")) == 200


@pytest.mark.parametrize(
    ("wide", "now", "kept"),
    [
        (None, "gaussian", "adagrad"),
        ("gaussian", None, "gaussian"),
        ("ftrl", "adam", "ftrl"),
        (None, "ftrl", "adagrad"),
    ],
)
def test_another_kind_of_linear_weight_stops_and_names_key_and_remedy(wide, now, kept):
    with pytest.raises(DefinitionConflict) as caught:
        reconcile(learned(wide=now), learned(wide=wide).to_json())
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    for line, table in zip(lines, ("user", "video"), strict=True):
        assert line.startswith(f"model.wide: the store holds rows of table {table!r} made with {kept!r}")
        assert f"`dolmen store drop {table} --yes`" in line


def test_linear_weights_that_learn_as_before_under_another_name_go_on():
    assert reconcile(learned(wide="adagrad"), learned().to_json()) == learned(wide="adagrad")


@pytest.mark.parametrize("tasks", [("like", "click"), ("click",), ("click", "like", "share"), ("click", "share")])
def test_other_tasks_of_gaussian_weights_stop(tasks):
    before = learned(tasks=("click", "like"), wide="gaussian").to_json()
    with pytest.raises(
        DefinitionConflict, match=r"^tasks: the store's Gaussian weights are of click, like, in this"
    ) as e:
        reconcile(learned(tasks=tasks, wide="gaussian"), before)
    assert "`dolmen store drop user --yes`, `dolmen store drop video --yes`" in str(e.value)


def test_tasks_in_another_order_stop_since_the_outputs_go_by_it():
    before = learned(tasks=("click", "like")).to_json()
    with pytest.raises(DefinitionConflict, match="tasks: the store has them in the order click, like"):
        reconcile(learned(tasks=("like", "click")), before)
    more = learned(tasks=("like", "click", "share"))
    assert reconcile(more, before) == more


def test_a_table_of_another_kind_stops():
    before = learned(USER, VIDEO, feature("past", source="item.x")).to_json()
    with pytest.raises(
        DefinitionConflict, match=r"^tables\.past\.kind: .* made with 'weights', .* asks for 'sequence'"
    ):
        reconcile(learned(USER, VIDEO, feature("past", "sequence", table="video")), before)


def test_a_sequence_may_become_longer_and_not_shorter():
    def past(length):
        return learned(USER, VIDEO, feature("past", "sequence", table="video", length=length))

    assert reconcile(past(9), past(5).to_json()) == past(9)
    with pytest.raises(
        DefinitionConflict, match=r"^features\.past\.length: .* made with 9, .* asks for 5; set it back, or"
    ):
        reconcile(past(5), past(9).to_json())


def test_features_that_change_tables_keep_what_was_there():
    shared = feature("video", source="item.id", table="shared")
    before = small_definition(FEATURES)
    after = reconcile(small_definition((FEATURES[0], shared)), before.to_json())
    assert {t.name for t in after.tables} == {"user", "shared"}
    assert {t.name for t in after.retired} == {"video", "tags", "hour", "length", "user_x_length"}
