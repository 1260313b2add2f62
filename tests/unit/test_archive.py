"""What an archive holds, who may write it, and in which order it is read."""

import uuid
from pathlib import Path

import pyarrow.dataset
import pytest

from services.archive.errors import ArchiveError, ArchiveOvertaken, ArchiveUnavailable
from services.archive.reader import Archive
from services.archive.rows import event_time_ms
from services.archive.source import ArchiveSource
from services.archive.state import STATE, State
from services.archive.storage import Storage
from services.archive.writer import Writer
from tests.archives import AHEAD_MS, DAY, DAY_MS, HOUR_MS, TOPIC, places, read_all, record, write
from trainer.errors import LogLost
from trainer.lost_log import TopicPosition
from trainer.reader import Record


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "archive") if request.param == "local" else f"memory://{uuid.uuid4().hex}/archive")


# Files and rows


def test_messages_lie_in_the_hour_of_their_event_time_and_come_back_as_they_were(tmp_path):
    some = [record(3, DAY_MS), record(4, DAY_MS + HOUR_MS), Record(TOPIC, 0, 7, -1, None, b'{"ts": 3600000}')]
    write(Storage(str(tmp_path)), "a", some)
    assert files(tmp_path) == [
        "date=1970-01-01/hour=01/a-0-3-7.parquet",
        f"date={DAY}/hour=00/a-0-3-7.parquet",
        f"date={DAY}/hour=01/a-0-3-7.parquet",
    ]
    assert read_all(tmp_path) == some


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[1]", b'{"ts": "x"}', b'{"ts": true}', b'{"ts": -1}', b'{"ts": 9999999999999999}', b'{"a": 5}'],
)  # fmt: skip
def test_a_message_without_a_sound_event_time_lies_in_the_hour_in_which_it_came(value, tmp_path):
    strange = Record(TOPIC, 0, 0, DAY_MS + 5 * HOUR_MS, b"k", value)
    write(Storage(str(tmp_path)), "a", [strange])
    assert files(tmp_path) == [f"date={DAY}/hour=05/a-0-0-0.parquet"]
    assert read_all(tmp_path) == [strange]


def test_an_event_time_too_far_ahead_is_none():
    assert event_time_ms(record(0, DAY_MS + AHEAD_MS, came_ms=DAY_MS), AHEAD_MS) == DAY_MS + AHEAD_MS
    assert event_time_ms(record(0, DAY_MS + AHEAD_MS + 1, came_ms=DAY_MS), AHEAD_MS) is None
    assert event_time_ms(record(0, DAY_MS, came_ms=-1), AHEAD_MS) == DAY_MS


def test_other_programs_read_the_folder_as_a_partitioned_data_set(tmp_path):
    write(Storage(str(tmp_path)), "a", [record(0), record(1, DAY_MS + HOUR_MS)], [record(2)])
    table = pyarrow.dataset.dataset(tmp_path, partitioning="hive").to_table().sort_by("offset")
    assert table["offset"].to_pylist() == [0, 1, 2]
    assert table["hour"].to_pylist() == [0, 1, 0]
    assert {str(day) for day in table["date"].to_pylist()} == {DAY}
    assert [int(time.timestamp() * 1000) for time in table["ts"].to_pylist()] == [DAY_MS, DAY_MS + HOUR_MS, DAY_MS]
    assert set(table["topic_id"].to_pylist()) == {"a"}


def test_any_file_system_keeps_an_archive(storage):
    write(storage, "a", [record(0), record(1)], [record(2)])
    assert places(Archive(Storage(storage.path)).read("a", {})) == [(0, 0), (0, 1), (0, 2)]
    storage.remove("nothing")
    assert storage.read("nothing") is None


def test_an_unknown_kind_of_address_is_named():
    with pytest.raises(ArchiveError, match="carrier-pigeon://: no file system is known"):
        Storage("carrier-pigeon://x/y")


# Who writes


def test_a_second_archiver_goes_on_and_the_first_one_ends(storage):
    first, second = (Writer(storage, TOPIC, AHEAD_MS) for _ in range(2))
    first.open()
    first.go_on(TopicPosition("a", {0: 0}))
    first.add([record(0)])
    first.flush()
    assert second.open() == TopicPosition("a", {0: 1})
    second.go_on(TopicPosition("a", {0: 1}))
    first.add([record(1)])
    with pytest.raises(ArchiveOvertaken):
        first.flush()
    second.add([record(1), record(2)])
    assert second.flush().messages == 2
    assert places(Archive(storage).read("a", {})) == [(0, 0), (0, 1), (0, 2)]


def test_what_kafka_lost_is_counted_and_the_rest_archived(tmp_path):
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0), record(1)], start={0: 0, 1: 0})
    writer = Writer(storage, TOPIC, AHEAD_MS)
    assert writer.open() == TopicPosition("a", {0: 2, 1: 0})
    assert writer.go_on(TopicPosition("a", {0: 5, 1: 4, 2: 0})) == 7
    writer.open()
    assert writer.go_on(TopicPosition("a", {0: 5, 1: 4, 2: 0})) == 0  # told once


def test_transaction_markers_behind_the_last_message_are_no_loss_when_kafka_has_emptied_the_topic(tmp_path):
    storage = Storage(str(tmp_path))
    writer = Writer(storage, TOPIC, AHEAD_MS)
    writer.open()
    writer.go_on(TopicPosition("a", {0: 0, 1: 0}))
    writer.add([record(0), record(1)])
    writer.flush({0: 3, 1: 1})
    assert writer.open() == TopicPosition("a", {0: 3, 1: 1})
    assert writer.go_on(TopicPosition("a", {0: 3, 1: 1})) == 0
    source = ArchiveSource(Archive(storage), "a")
    source.open({})
    assert len(source.poll(0, 10)) == 2
    assert source.positions() == {TOPIC: TopicPosition("a", {0: 2, 1: 1})}  # as the trainer counts, without markers
    assert not any(source.lag().values())


def test_a_log_that_was_cut_below_the_archive_stops_the_archiver(tmp_path):
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0), record(1)])
    writer = Writer(storage, TOPIC, AHEAD_MS)
    writer.open()
    with pytest.raises(LogLost, match=r"partition 0: its log was cut. It is archived up to 2 and would go on at 1"):
        writer.go_on(TopicPosition("a", {0: 1}))


def test_a_topic_made_anew_is_another_generation(tmp_path):
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0)])
    write(storage, "b", [record(0), record(1)])
    archive = Archive(storage)
    assert list(archive.ends) == ["a", "b"]
    assert places(archive.read("b", {})) == [(0, 0), (0, 1)]


def test_a_folder_that_is_no_archive_of_the_topic_is_refused(tmp_path):
    (tmp_path / "other" / "x").mkdir(parents=True)
    with pytest.raises(ArchiveError, match=r"archive\.path to an empty folder"):
        Writer(Storage(str(tmp_path / "other")), TOPIC, AHEAD_MS).open()
    write(Storage(str(tmp_path / "ours")), "a", [record(0)])
    with pytest.raises(ArchiveError, match="archive of topic examples, not of another"):
        Writer(Storage(str(tmp_path / "ours")), "another", AHEAD_MS).open()
    with pytest.raises(ArchiveError, match="holds no archive"):
        Archive(Storage(str(tmp_path / "none")))
    with pytest.raises(ArchiveError, match="topics no id"):
        Writer(Storage(str(tmp_path / "new")), TOPIC, AHEAD_MS).go_on(TopicPosition(None, {0: 0}))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"version": 2}'])
def test_a_state_that_cannot_be_read_is_named(data):
    with pytest.raises(ArchiveError, match=STATE):
        State.from_bytes(data)


def test_a_file_system_that_does_not_answer_is_retried(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnavailable):
        Storage(str(tmp_path / "file")).write("below", b"")


# Reading


def test_a_partition_is_read_in_the_order_of_its_offsets_whatever_the_event_times(tmp_path):
    hours = [0, 5, 1, 5, 0, 2]
    some = [record(offset, DAY_MS + hour * HOUR_MS, came_ms=DAY_MS) for offset, hour in enumerate(hours)]
    write(Storage(str(tmp_path)), "a", some[:4], some[4:])
    assert read_all(tmp_path) == some
    archive = Archive(Storage(str(tmp_path)))
    assert places(archive.read("a", {0: 3})) == [(0, 3), (0, 4), (0, 5)]


def test_partitions_take_turns_by_the_time_at_which_messages_came(tmp_path):
    came = {0: [1, 5, 4], 1: [2, 2, 9], 2: [1]}
    some = {p: [record(n, DAY_MS, p, DAY_MS + ms) for n, ms in enumerate(times)] for p, times in came.items()}
    flushes = [some[2] + some[0][:2], some[1], some[0][2:]]
    write(Storage(str(tmp_path)), "a", *flushes, start={0: 0, 1: 0, 2: 0})
    assert places(read_all(tmp_path)) == [(0, 0), (2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]


def test_each_partition_ends_before_its_first_message_that_came_too_late(tmp_path):
    came = {0: [1, 5, 4], 1: [2, 3, 9]}
    some = [record(n, DAY_MS, p, DAY_MS + ms) for p, times in came.items() for n, ms in enumerate(times)]
    write(Storage(str(tmp_path)), "a", some, start={0: 0, 1: 0})
    source = ArchiveSource(Archive(Storage(str(tmp_path))), "a", until_ms=DAY_MS + 5)
    source.open({})
    assert places(source.poll(0, 100)) == [(0, 0), (1, 0), (1, 1)]
    assert source.ended
    assert source.positions() == {TOPIC: TopicPosition("a", {0: 1, 1: 2})}
    assert source.lag() == {(TOPIC, 0): 2, (TOPIC, 1): 1}


def test_what_lies_beyond_the_state_or_is_no_row_counts_for_nothing(tmp_path):
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0)])
    storage.write(f"date={DAY}/hour=00/a-0-1-4.parquet", b"half a file")
    storage.write(f"date={DAY}/hour=00/notes.txt", b"")
    storage.write(f"date={DAY}/hour=00/x-0-0-0.parquet", b"of another topic")
    assert places(read_all(tmp_path)) == [(0, 0)]


def test_messages_that_are_there_twice_are_refused(tmp_path):
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0), record(1)], [record(2)])
    storage.write(f"date={DAY}/hour=00/a-0-1-2.parquet", b"")
    with pytest.raises(ArchiveError, match="messages are there twice"):
        Archive(storage)


def test_hours_that_were_removed_are_passed_over(tmp_path):
    write(Storage(str(tmp_path)), "a", [record(0), record(1, DAY_MS + HOUR_MS)], [record(2)])
    (tmp_path / f"date={DAY}" / "hour=00" / "a-0-0-1.parquet").unlink()
    assert places(read_all(tmp_path)) == [(0, 1), (0, 2)]


# The source


@pytest.fixture
def two_generations(tmp_path: Path) -> Archive:
    storage = Storage(str(tmp_path))
    write(storage, "a", [record(0), record(1)])
    write(storage, "b", [record(5), record(6)], start={0: 5, 1: 3})
    return Archive(storage)


@pytest.mark.parametrize(
    ("stored", "of_a", "of_b"),
    [
        ({}, [0, 1], [5, 6]),
        ({TOPIC: TopicPosition("a", {0: 1})}, [1], [5, 6]),
        ({TOPIC: TopicPosition("b", {0: 6, 1: 3})}, [], [6]),
        ({TOPIC: TopicPosition(None, {0: 6, 1: 3})}, [], [6]),
        ({"another": TopicPosition("z", {0: 9})}, [0, 1], [5, 6]),
    ],
)
def test_reading_goes_on_where_the_store_is(two_generations, stored, of_a, of_b):
    for topic_id, wanted in (("a", of_a), ("b", of_b)):
        source = ArchiveSource(two_generations, topic_id)
        source.open(stored)
        assert [one.offset for one in source.poll(0, 100)] == wanted
        assert source.ended
        assert not any(source.lag().values())
    assert source.positions() == {TOPIC: TopicPosition("b", {0: 7, 1: 3})}


def test_a_store_that_learned_from_another_topic_is_refused(two_generations):
    with pytest.raises(ArchiveError, match="the id z, of which the archive holds nothing"):
        ArchiveSource(two_generations, "b").open({TOPIC: TopicPosition("z", {0: 1})})


def test_a_source_has_ended_once_everything_was_handed_out(two_generations):
    source = ArchiveSource(two_generations, "a")
    source.open({})
    assert [len(source.poll(0, 1)) for _ in range(3)] == [1, 1, 0]
    assert source.ended
    source.open({})
    assert not source.ended
