"""A stored shard under a changed configuration: what goes on, what begins empty, what stops."""

import pytest

from embedding_store.errors import DefinitionConflict
from embedding_store.settings import TableSettings
from tests.definitions import FEATURES, feature, small_definition
from trainer.restore import describe_changes, reconcile

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


def test_features_that_change_tables_keep_what_was_there():
    shared = feature("video", source="item.id", table="shared")
    before = small_definition(FEATURES)
    after = reconcile(small_definition((FEATURES[0], shared)), before.to_json())
    assert {t.name for t in after.tables} == {"user", "shared"}
    assert {t.name for t in after.retired} == {"video", "tags", "hour", "length", "user_x_length"}
