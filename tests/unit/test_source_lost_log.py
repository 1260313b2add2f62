"""The decisions about a lost log, without a broker."""

from trainer.lost_log import (
    TopicPosition,
    count_left,
    describe_missing,
    find_deleted,
    find_replaced,
    find_shorter,
)
from trainer.topics import TopicState


def test_the_same_topic_id_is_no_loss() -> None:
    assert find_replaced("t", TopicPosition("a", {0: 5}), TopicState("a", (0, 1))) is None


def test_another_topic_id_voids_every_position_and_is_named() -> None:
    loss = find_replaced("t", TopicPosition("old", {0: 5, 1: 7}), TopicState("new", (0,)))
    assert loss is not None
    assert loss.whole
    assert loss.partitions == (0,)
    for part in ("Topic t", "old", "new", "partition 0: 5, partition 1: 7"):
        assert part in loss.reason


def test_an_unknown_topic_id_on_either_side_is_no_loss() -> None:
    assert find_replaced("t", TopicPosition(None, {0: 5}), TopicState("a", (0,))) is None
    assert find_replaced("t", TopicPosition("a", {0: 5}), TopicState(None, (0,))) is None


def test_a_partition_that_is_gone_means_another_topic_even_without_ids() -> None:
    loss = find_replaced("t", TopicPosition(None, {0: 5, 2: 1}), TopicState(None, (0,)))
    assert loss is not None
    assert loss.whole
    assert "no partition 2" in loss.reason


def test_deleted_records_are_counted_for_the_partitions_they_are_missing_from() -> None:
    loss = find_deleted("t", {0: 5, 1: 9, 2: 3}, {0: 5, 1: 12, 2: 0})
    assert loss is not None
    assert not loss.whole
    assert loss.partitions == (1,)
    assert "partition 1: 3 gone, from offset 9 to 11" in loss.reason


def test_a_log_that_begins_where_reading_goes_on_lost_nothing() -> None:
    assert find_deleted("t", {0: 5}, {0: 5}) is None
    assert find_deleted("t", {0: 5}, {}) is None


def test_a_short_log_names_what_was_consumed_and_where_it_ends() -> None:
    loss = find_shorter("t", {0: 100, 1: 5}, {0: 7})
    assert loss.partitions == (0,)
    assert "partition 0: consumed up to 100, the log ends at 7" in loss.reason


def test_a_missing_topic_is_described_with_what_was_consumed() -> None:
    assert "(partition 3: 8)" in describe_missing("t", TopicPosition("a", {3: 8}), 5.0)


def test_a_partition_read_to_its_exact_end_has_nothing_left() -> None:
    assert count_left(20, 20, 20, gave_nothing=True) == 0
    assert count_left(20, 20, 20, gave_nothing=False) == 0


def test_records_of_an_open_transaction_do_not_count_once_nothing_more_can_be_read() -> None:
    assert count_left(20, 20, 23, gave_nothing=True) == 0
    assert count_left(20, 20, 23, gave_nothing=False) == 3


def test_a_broker_that_answers_with_the_last_batchs_first_offset_counts_by_the_high_watermark() -> None:
    assert count_left(3, 1, 5, gave_nothing=False) == 2
    assert count_left(5, 1, 5, gave_nothing=True) == 0


def test_new_records_count_before_they_were_fetched() -> None:
    assert count_left(20, 26, 20, gave_nothing=True) == 6


def test_before_a_fetch_was_answered_only_the_brokers_answer_counts() -> None:
    assert count_left(3, 1, None, gave_nothing=True) == 0
    assert count_left(3, 8, None, gave_nothing=True) == 5
