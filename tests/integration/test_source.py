"""The source against real brokers: the embedded one and, where there is one, Apache Kafka."""

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

import trainer.cursor
from services.local.servers import Server, start_broker
from tests import apache_kafka
from tests.processes import runs
from trainer.connection import kafka_options
from trainer.errors import EventsUnavailable, LogLost
from trainer.settings import EventsSettings
from trainer.source import Record, Source, TopicPosition
from trainer.topics import Topics

pytestmark = pytest.mark.kafka

LIMIT_S = 60.0
EARLIEST_LATEST = ("earliest", "latest")


def new_settings(servers: str, **changes: Any) -> EventsSettings:
    name = f"t-{uuid.uuid4().hex[:12]}"
    topics = {"examples": f"{name}.examples", "dead_letters": f"{name}.dead"}
    return EventsSettings(bootstrap_servers=servers, id=name, topics=topics, **changes)


@contextmanager
def opened(
    settings: EventsSettings, stored: dict[str, TopicPosition] | None = None, start: str = "earliest"
) -> Iterator[Source]:
    source = Source(settings, start)
    try:
        source.open(stored or {})
        yield source
    finally:
        source.close()


@contextmanager
def admin(servers: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=servers)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def producer(servers: str, **options: Any) -> Iterator[KafkaProducer]:
    client = KafkaProducer(bootstrap_servers=servers, linger_ms=200, **options)
    try:
        yield client
    finally:
        client.close(timeout=5)


def create(settings: EventsSettings, partitions: int = 1) -> str:
    topics = Topics(kafka_options(settings))
    state = topics.ensure(settings.topics.examples, partitions)
    topics.close()
    assert state.topic_id is not None
    return state.topic_id


def delete(settings: EventsSettings) -> None:
    with admin(settings.bootstrap_servers) as client:
        client.delete_topics([settings.topics.examples])
        wait_for(lambda: client.describe_topics([settings.topics.examples])[0]["error_code"] != 0)


def send(settings: EventsSettings, *values: str, partition: int = 0, times_ms: list[int] | None = None) -> None:
    """Sends the values as one batch."""
    with producer(settings.bootstrap_servers) as client:
        for index, value in enumerate(values):
            at = times_ms[index] if times_ms else None
            client.send(settings.topics.examples, value.encode(), b"key", partition=partition, timestamp_ms=at)
        client.flush()


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)


def take(source: Source, count: int, max_records: int = 100) -> list[str]:
    """So many values, and no more than the source gives by itself."""
    values: list[str] = []
    limit = time.monotonic() + LIMIT_S
    while len(values) < count:
        assert time.monotonic() < limit, f"only {values} came"
        values += [record.value.decode() for record in source.poll(200, max_records)]
    return values


def take_rest(source: Source) -> list[str]:
    """Everything up to the end."""
    values: list[str] = []
    limit = time.monotonic() + LIMIT_S
    while not source.at_end():
        assert time.monotonic() < limit, f"no end after {values}"
        values += [record.value.decode() for record in source.poll(200, 100)]
    return values


def check_until_lost(source: Source) -> None:
    """Does what the loop does until a lost log is noticed."""
    limit = time.monotonic() + LIMIT_S
    while source.lost_logs == 0:
        assert time.monotonic() < limit, "the loss was not noticed"
        try:
            source.poll(50, 100)
            source.check()
        except EventsUnavailable:
            time.sleep(0.05)


def offsets(source: Source, settings: EventsSettings) -> dict[int, int]:
    return dict(source.positions()[settings.topics.examples].offsets)


@pytest.fixture
def settings(bootstrap_servers: str) -> EventsSettings:
    return new_settings(bootstrap_servers)


@pytest.fixture
def only_apache(request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["bootstrap_servers"] != "apache":
        pytest.skip("the embedded broker cannot do this: it needs Apache Kafka")


def test_first_start_creates_the_topics_and_reads_what_comes(bootstrap_servers: str) -> None:
    settings = new_settings(bootstrap_servers, partitions=3)
    with opened(settings) as source:
        assert offsets(source, settings) == {0: 0, 1: 0, 2: 0}
        send(settings, "a", "b", partition=1)
        assert take(source, 2) == ["a", "b"]
        assert take_rest(source) == []
        assert offsets(source, settings) == {0: 0, 1: 2, 2: 0}
        assert set(source.lag().values()) == {0}
    with admin(bootstrap_servers) as client:
        assert client.describe_topics([settings.topics.dead_letters])[0]["error_code"] == 0


def test_records_carry_what_kafka_holds(settings: EventsSettings) -> None:
    create(settings)
    send(settings, "v", times_ms=[1_700_000_000_123])
    with opened(settings) as source:
        (record,) = source.poll(5000, 10)
    assert record == Record(settings.topics.examples, 0, 0, 1_700_000_000_123, b"key", b"v")


def test_start_at_the_latest_offset_reads_only_what_comes_later(settings: EventsSettings) -> None:
    create(settings)
    send(settings, "old 1", "old 2", "old 3")
    send(settings, "old 4", "old 5")
    with opened(settings, start="latest") as source:
        assert offsets(source, settings) == {0: 5}
        send(settings, "new 1", "new 2")
        assert take(source, 2) == ["new 1", "new 2"]
        assert take_rest(source) == []


@pytest.mark.parametrize(("start", "first"), [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("04", 5)])
def test_start_at_a_time_reads_from_the_first_record_at_or_after_it(
    settings: EventsSettings, start: str, first: int
) -> None:
    create(settings)
    send(settings, "a", "b", times_ms=[1_700_000_000_000, 1_700_000_001_000])
    send(settings, "c", "d", "e", times_ms=[1_700_000_002_000, 1_700_000_003_000, 1_700_000_003_000])
    with opened(settings, start=f"2023-11-14T22:13:{20 + int(start)}Z") as source:
        assert offsets(source, settings) == {0: first}
        assert take_rest(source) == list("abcde")[first:]


def test_a_stored_position_in_the_middle_of_a_batch_is_resumed_exactly(settings: EventsSettings) -> None:
    create(settings, 2)
    send(settings, *"abcde")
    send(settings, *"xyz", partition=1)
    seen: list[str] = []
    with opened(settings) as source:
        while len(seen) < 4:
            seen += take(source, 1, max_records=1)
        stored = source.positions()
    with opened(settings, stored, start="latest") as source:
        assert source.positions() == stored
        seen += take_rest(source)
    assert sorted(seen) == sorted("abcdexyz")


def test_a_stored_position_at_the_end_is_no_lost_log(settings: EventsSettings) -> None:
    create(settings)
    send(settings, *"abcde")
    with opened(settings) as source:
        take_rest(source)
        stored = source.positions()
    with opened(settings, stored) as source:
        source.check()
        assert take_rest(source) == []
        send(settings, "f")
        assert take(source, 1) == ["f"]


def test_a_position_without_topic_id_adopts_the_present_one(settings: EventsSettings) -> None:
    identity = create(settings)
    send(settings, *"abc")
    with opened(settings, {settings.topics.examples: TopicPosition(None, {0: 2})}) as source:
        assert take_rest(source) == ["c"]
        assert source.positions() == {settings.topics.examples: TopicPosition(identity, {0: 3})}


def test_open_again_goes_back(settings: EventsSettings) -> None:
    create(settings)
    send(settings, *"abc")
    with opened(settings) as source:
        stored = source.positions()
        assert take(source, 3) == ["a", "b", "c"]
        source.open(stored)
        assert take(source, 3) == ["a", "b", "c"]


def test_lag_counts_what_is_left(settings: EventsSettings) -> None:
    create(settings)
    send(settings, *"abcde")
    with opened(settings) as source:
        take(source, 2, max_records=2)
        assert source.lag() == {(settings.topics.examples, 0): 3}
        assert not source.at_end()
        take_rest(source)
        assert source.lag() == {(settings.topics.examples, 0): 0}


@pytest.mark.parametrize("ending", ["commit", "abort"])
def test_transaction_markers_count_neither_as_position_nor_as_lag(
    request: pytest.FixtureRequest, settings: EventsSettings, ending: str
) -> None:
    create(settings)
    send(settings, "plain")
    with producer(settings.bootstrap_servers, transactional_id=settings.id) as client:
        client.init_transactions()
        client.begin_transaction()
        for value in (b"x", b"y"):
            client.send(settings.topics.examples, value, partition=0)
        client.flush()
        with opened(settings) as source:
            embedded = request.node.callspec.params["bootstrap_servers"] == "embedded"
            assert take(source, 1) == ["plain"]
            if not embedded:  # it tells no reader where an open transaction begins
                assert take_rest(source) == []
                assert source.lag() == {(settings.topics.examples, 0): 0}
            assert offsets(source, settings) == {0: 1}
            client.commit_transaction() if ending == "commit" else client.abort_transaction()
            expected = ["x", "y"] if ending == "commit" or embedded else []  # it delivers aborted records
            assert take(source, len(expected)) == expected
            wait_for(lambda: source.poll(100, 10) == [] and source.at_end())
            assert offsets(source, settings) == {0: 1 + len(expected)}
            assert source.lag() == {(settings.topics.examples, 0): 0}
            stored = source.positions()
    with opened(settings, stored) as source:
        assert take_rest(source) == []
        assert source.positions() == stored
        assert source.lag() == {(settings.topics.examples, 0): 0}
        send(settings, "later")
        assert take(source, 1) == ["later"]


def test_dead_letters_keep_bytes_and_origin(settings: EventsSettings) -> None:
    create(settings)
    with producer(settings.bootstrap_servers) as client:
        client.send(settings.topics.examples, b"\xff\x00 no JSON", b"\xfekey", partition=0)
        client.send(settings.topics.examples, b"without key", partition=0)
    with opened(settings) as source:
        first, second = [record for _ in range(2) for record in source.poll(5000, 1)]
        source.dead_letter(first, "json", "not JSON: ü")
        source.dead_letter(second, "schema", "no ts")
        source.flush_dead_letters()
        source.flush_dead_letters()
    letters = read_all(settings, settings.topics.dead_letters)
    assert [(letter.key, letter.value) for letter in letters] == [
        (b"\xfekey", b"\xff\x00 no JSON"),
        (None, b"without key"),
    ]
    assert dict(letters[0].headers) == {
        "reason": "json: not JSON: ü".encode(),
        "source_topic": settings.topics.examples.encode(),
        "source_partition": b"0",
        "source_offset": b"0",
    }
    assert dict(letters[1].headers)["source_offset"] == b"1"


def test_a_dead_letter_that_no_broker_takes_is_cut_and_the_stream_goes_on(
    request: pytest.FixtureRequest, settings: EventsSettings
) -> None:
    with opened(settings) as source:
        value = b"x" * (2 << 20)
        source.dead_letter(Record(settings.topics.examples, 0, 7, 0, None, value), "json", "too much")
        source.dead_letter(Record(settings.topics.examples, 0, 8, 0, None, b"small"), "json", "not much")
        source.flush_dead_letters()
    letters = {
        dict(letter.headers)["source_offset"]: letter for letter in read_all(settings, settings.topics.dead_letters)
    }
    assert letters[b"8"].value == b"small"
    if request.node.callspec.params["bootstrap_servers"] == "apache":
        assert dict(letters[b"7"].headers)["original_bytes"] == str(2 << 20).encode()
        assert value.startswith(letters[b"7"].value)
    else:
        assert letters[b"7"].value == value


def read_all(settings: EventsSettings, topic: str) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers, enable_auto_commit=False)
    try:
        where = TopicPartition(topic, 0)
        consumer.assign([where])
        consumer.seek_to_beginning(where)
        found: list[Any] = []
        end = consumer.end_offsets([where])[where]
        while batch := consumer.poll(2000 if consumer.position(where) < end else 300):
            found += batch[where]
        return found
    finally:
        consumer.close()


@pytest.mark.parametrize("policy", EARLIEST_LATEST)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_re_created_topic_is_noticed_and_read_as_configured(
    bootstrap_servers: str, policy: str, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings(bootstrap_servers, on_lost_log=policy)
    old = create(settings)
    send(settings, *"abc")
    with opened(settings) as source:
        take_rest(source)
        stored = source.positions()
        delete(settings)
        new = create(settings, 2)
        send(settings, "d", "e", "f", "g")
        if not restarted:
            check_until_lost(source)
            check_reading_of_new_topic(source, settings, policy, new)
    if restarted:
        with opened(settings, stored) as source:
            assert source.lost_logs == 1
            check_reading_of_new_topic(source, settings, policy, new)
    assert old in caplog.text
    assert new in caplog.text


def check_reading_of_new_topic(source: Source, settings: EventsSettings, policy: str, identity: str) -> None:
    start = {0: 0, 1: 0} if policy == "earliest" else {0: 4, 1: 0}
    assert source.positions() == {settings.topics.examples: TopicPosition(identity, start)}
    assert take_rest(source) == (["d", "e", "f", "g"] if policy == "earliest" else [])
    send(settings, "h")
    assert take(source, 1) == ["h"]
    assert source.lost_logs == 1


def test_a_re_created_topic_stops_the_source_with_advice(settings: EventsSettings) -> None:
    old = create(settings)
    send(settings, *"abc")
    with opened(settings) as source:
        take_rest(source)
        stored = source.positions()
        delete(settings)
        new = create(settings)
        with pytest.raises(LogLost, match="on_lost_log") as caught:
            check_until_lost(source)
        assert source.positions() == stored
    for part in (settings.topics.examples, old, new, "partition 0: 3"):
        assert part in str(caught.value)
    with pytest.raises(LogLost, match=new), opened(settings, stored):
        pass


def test_a_topic_that_grew_past_the_position_after_it_was_re_created_is_not_read_on(bootstrap_servers: str) -> None:
    settings = new_settings(bootstrap_servers, on_lost_log="earliest")
    create(settings)
    send(settings, "old 1", "old 2")
    with opened(settings) as source:
        take_rest(source)
        delete(settings)
        source.poll(300, 100)
        create(settings)
        send(settings, *"abcdef")
        values: list[str] = []
        while len(values) < 6:
            source.check()
            values += take(source, 1)
        assert values == list("abcdef")


def test_a_topic_that_stays_missing_stops_the_source_and_is_not_created(
    settings: EventsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.cursor, "MISSING_LIMIT_S", 1.0)
    create(settings)
    send(settings, "a")
    with opened(settings) as source:
        take_rest(source)
        stored = source.positions()
        delete(settings)
        with pytest.raises(LogLost, match="missing"):
            check_until_lost(source)
    with pytest.raises(LogLost, match="missing"), opened(settings, stored):
        pass
    with admin(settings.bootstrap_servers) as client:
        assert client.describe_topics([settings.topics.examples])[0]["error_code"] == 3


def test_a_topic_that_stays_missing_is_created_again_where_configured(
    bootstrap_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = new_settings(bootstrap_servers, on_lost_log="earliest", partitions=2)
    monkeypatch.setattr(trainer.cursor, "MISSING_LIMIT_S", 1.0)
    create(settings)
    send(settings, "a")
    with opened(settings) as source:
        take_rest(source)
        delete(settings)
        check_until_lost(source)
        assert offsets(source, settings) == {0: 0, 1: 0}
        send(settings, "b", partition=1)
        assert take(source, 1) == ["b"]


@pytest.mark.parametrize("policy", [*EARLIEST_LATEST, "stop"])
def test_a_stored_position_beyond_the_end_is_a_lost_log(bootstrap_servers: str, policy: str) -> None:
    settings = new_settings(bootstrap_servers, on_lost_log=policy)
    identity = create(settings, 2)
    send(settings, *"abc")
    send(settings, *"xyz", partition=1)
    stored = {settings.topics.examples: TopicPosition(identity, {0: 100, 1: 2})}
    if policy == "stop":
        with (
            pytest.raises(LogLost, match=r"partition 0: consumed up to 100, the log ends at \d"),
            opened(settings, stored),
        ):
            pass
        return
    with opened(settings, stored) as source:
        assert source.lost_logs == 1
        assert offsets(source, settings) == {0: 0 if policy == "earliest" else 3, 1: 2}
        assert sorted(take_rest(source)) == (["a", "b", "c", "z"] if policy == "earliest" else ["z"])


@pytest.mark.usefixtures("only_apache")
@pytest.mark.parametrize("policy", [*EARLIEST_LATEST, "stop"])
@pytest.mark.parametrize("restarted", [False, True])
def test_records_deleted_before_they_were_read_are_a_lost_log(
    bootstrap_servers: str, policy: str, restarted: bool
) -> None:
    settings = new_settings(bootstrap_servers, on_lost_log=policy)
    create(settings)
    send(settings, *"abcdefgh")
    with opened(settings) as source:
        assert take(source, 2, max_records=2) == ["a", "b"]
        stored = source.positions()
        with admin(bootstrap_servers) as client:
            client.delete_records({TopicPartition(settings.topics.examples, 0): 5})
        if not restarted:
            if policy == "stop":
                with pytest.raises(LogLost, match="partition 0: 3 gone, from offset 2 to 4"):
                    source.check()
            else:
                source.check()
                assert take_rest(source) == (["f", "g", "h"] if policy == "earliest" else [])
            return
    if policy == "stop":
        with pytest.raises(LogLost, match="partition 0: 3 gone, from offset 2 to 4"), opened(settings, stored):
            pass
        return
    with opened(settings, stored) as source:
        assert take_rest(source) == (["f", "g", "h"] if policy == "earliest" else [])


@pytest.mark.usefixtures("only_apache")
def test_records_deleted_after_they_were_read_are_no_loss(settings: EventsSettings) -> None:
    create(settings)
    send(settings, *"abc")
    with opened(settings) as source:
        take_rest(source)
        with admin(settings.bootstrap_servers) as client:
            client.delete_records({TopicPartition(settings.topics.examples, 0): 3})
        source.check()
        stored = source.positions()
    with opened(settings, stored) as source:
        assert take_rest(source) == []


@pytest.mark.usefixtures("only_apache")
def test_partitions_that_come_later_are_read_from_their_beginning(settings: EventsSettings) -> None:
    create(settings)
    send(settings, "a")
    with opened(settings, start="latest") as source:
        with admin(settings.bootstrap_servers) as client:
            client.create_partitions({settings.topics.examples: 2})
        send(settings, "b", "c", partition=1)
        source.check()
        assert offsets(source, settings) == {0: 1, 1: 0}
        assert take(source, 2) == ["b", "c"]


def test_lag_tools_see_the_offsets_and_nothing_resumes_from_them(settings: EventsSettings) -> None:
    create(settings)
    send(settings, *"abc")
    group = f"{settings.id}-trainer"
    with opened(settings) as source, admin(settings.bootstrap_servers) as client:
        take_rest(source)
        source.commit_offsets(source.positions())

        def committed() -> bool:
            try:
                found = client.list_group_offsets({group: None})[group]
            except KafkaError:  # a young broker creates the topic of offsets now
                return False
            return {where.partition: hit.offset for where, hit in found.items()} == {0: 3}

        wait_for(committed)
    with opened(settings) as source:
        assert take_rest(source) == ["a", "b", "c"]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Server]:
    with start_broker(tmp_path / "broker") as server:
        yield server


@pytest.mark.parametrize("policy", [*EARLIEST_LATEST, "stop"])
def test_an_embedded_broker_that_lost_everything_is_noticed(own_broker: Server, policy: str) -> None:
    settings = new_settings(own_broker.address, on_lost_log=policy)
    old = create(settings)
    send(settings, *"abc")
    with opened(settings) as source:
        take_rest(source)
        own_broker.kill()
        assert source.poll(300, 10) == []
        with pytest.raises(EventsUnavailable):
            source.check()
        assert not source.at_end()
        own_broker.restart()
        new = create(settings)
        send(settings, "d", "e")
        if policy == "stop":
            with pytest.raises(LogLost, match=f"{old}.*{new}"):
                check_until_lost(source)
            return
        check_until_lost(source)
        assert take_rest(source) == (["d", "e"] if policy == "earliest" else [])
        send(settings, "f")
        assert take(source, 1) == ["f"]


def test_a_broker_that_does_not_answer_is_unavailable(own_broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = new_settings(own_broker.address)
    own_broker.kill()
    monkeypatch.setattr(trainer.topics, "REQUEST_TIMEOUT_MS", 500)
    with pytest.raises(EventsUnavailable, match=re.escape(own_broker.address)), opened(settings):
        pass


def test_dead_letters_outlive_an_outage(own_broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.dead_letters, "REQUEST_TIMEOUT_MS", 500)
    settings = new_settings(own_broker.address, on_lost_log="earliest")
    with opened(settings) as source:
        source.dead_letter(Record(settings.topics.examples, 0, 1, 0, None, b"bad"), "json", "first")
        own_broker.kill()
        source.dead_letter(Record(settings.topics.examples, 0, 2, 0, None, b"worse"), "json", "second")
        with pytest.raises(EventsUnavailable):
            source.flush_dead_letters()
        own_broker.restart()
        wait_for(lambda: succeeds(source.flush_dead_letters))
        assert [letter.value for letter in read_all(settings, settings.topics.dead_letters)] == [b"bad", b"worse"]


def succeeds(action: Callable[[], None]) -> bool:
    try:
        action()
    except EventsUnavailable:
        return False
    return True


def test_a_kafka_that_was_away_is_read_on_where_it_was_left(tmp_path: Path) -> None:
    script = os.environ.get(apache_kafka.VARIABLE)
    if not script:
        pytest.skip(f"{apache_kafka.VARIABLE} names no script that starts Apache Kafka")
    servers, pid = apache_kafka.start(script, tmp_path)
    try:
        settings = new_settings(servers)
        create(settings)
        send(settings, "a", "b", "c")
        with opened(settings) as source:
            assert take(source, 2, max_records=2) == ["a", "b"]
            stop_kafka(pid)
            assert take(source, 1) == ["c"]  # was fetched before
            assert source.poll(500, 10) == []
            assert not source.at_end()
            servers, pid = apache_kafka.start(script, tmp_path)
            send(settings, "d")
            assert take(source, 1) == ["d"]
            wait_for(lambda: succeeds(source.check))
            assert source.lost_logs == 0
            assert offsets(source, settings) == {0: 4}
    finally:
        stop_kafka(pid)


def stop_kafka(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
    wait_for(lambda: not runs(pid))
