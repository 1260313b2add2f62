"""A shard as one file: equal stores give equal bytes, damaged files are refused, a loaded dump goes on identically."""

import zlib

import numpy as np
import orjson
import pytest
import zstandard

import embedding_store.change
from embedding_store.bootstrap import bootstrap
from embedding_store.commit import CommitId
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import BadBytes, NotEmpty, StoreUnavailable
from embedding_store.materializer import Materializer
from embedding_store.plan import TablePlan
from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, TABLES, Writer, dump_of, flaky_log, foot_of, keys_of, log_for, see, stored


def learn(writer: Writer, round_: int) -> None:
    rng = np.random.default_rng(round_)
    see(writer.shard, rng.integers(0, 40, (32, 2)).tolist(), rng.normal(size=(32, 2, 7)), times_ms=1000 + 250 * round_)
    writer.shard.sweep(11)


@pytest.fixture
def writer(redis_url) -> Writer:
    writer = Writer(log_for(redis_url))
    for round_ in range(6):
        learn(writer, round_)
        writer.commit()
    return writer


@pytest.fixture
def path(tmp_path, writer):
    path = tmp_path / "store.dump"
    path.write_bytes(writer.committed)
    return path


def test_a_dump_of_a_loaded_store_is_the_same_bytes(writer, path, redis_url):
    log = log_for(redis_url)
    dump = read_dump(path)
    assert load_dump(log, dump) == CommitId(1, 1)
    assert dump.rows == sum(writer.shard.live_rows(t).size for t in range(2))
    assert sorted(dump.tables) == ["narrow", "wide"]
    assert stored(log) == writer.committed
    Materializer(log, log.raise_epoch(), 0).fold()
    assert stored(log) == writer.committed


def test_a_loaded_store_goes_on_as_the_dumped_one_does(writer, path, redis_url):
    log = log_for(redis_url)
    load_dump(log, read_dump(path))
    other = Writer(log)
    snapshot = bootstrap(log, learning=True)
    other.shard, other.head, other.offset = snapshot.shard, snapshot.id, snapshot.positions["events"]["offsets"]["0"]
    other.parts = snapshot.parts
    for round_ in range(6, 10):
        for each in (writer, other):
            learn(each, round_)
            each.commit()
        assert other.committed == writer.committed
    assert stored(log) == stored(writer.log)


def test_a_loaded_store_takes_the_topics_present_ids(writer, path, redis_url):
    log = log_for(redis_url)
    load_dump(log, read_dump(path))
    assert bootstrap(log, learning=True).positions == {"events": {"topic_id": None, "offsets": {"0": 6}}}


def test_a_dump_says_nothing_of_commits_epochs_topic_ids_or_the_order_of_learning(writer, redis_url):
    other = Writer(log_for(redis_url))
    other.log.raise_epoch()
    other.epoch = other.log.raise_epoch()
    for round_ in range(6):
        learn(other, round_)
        if round_ % 2:
            other.commit()
    other.offset = writer.offset
    other.parts = dict(writer.parts)
    assert dump_of(other.snapshot()) == writer.committed
    assert b"topic_id" not in writer.committed


def test_a_plan_for_a_table_that_learned_nothing_yet_leaves_redis_and_memory_alike(redis_url):
    writer = Writer(log_for(redis_url), [TableSettings(name="fine", dim=3, optimizer="adagrad_elementwise")])
    writer.commit()
    writer.shard.set_plan("fine", TablePlan((), ((0,),), ((0.5, 0.1, 0.2), (0.1, -0.4, 0.3), (0.3, 0.2, -0.6))))
    writer.commit()
    assert stored(writer.log) == writer.committed


def test_expired_rows_are_left_out_whether_swept_or_not():
    dumps = []
    for sweeps in (0, 1):
        shard = Shard(TABLES, SEED)
        see(shard, [[1, 1], [2, 2]], times_ms=1000)
        see(shard, [[3, 3]], times_ms=2001)
        shard.sweep(100 * sweeps)
        writer = object.__new__(Writer)
        writer.shard, writer.head, writer.definition = shard, CommitId(1, 1), b'{"seed": 1}'
        writer.offset, writer.parts = 0, {}
        dumps.append(dump_of(writer.snapshot()))
    assert dumps[0] == dumps[1]
    assert foot_of(dumps[0])["rows"] == {"narrow": 4, "wide": 2}


def test_a_dump_is_laid_out_as_documented(writer):
    data = writer.committed
    content = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    line, _, rest = content.partition(b"\n")
    head = orjson.loads(line)
    assert head["format"] == "dolmen-dump-2"
    assert (head["clock_ms"], head["offsets"]) == (2250, {"events": {"0": 6}})
    parts = {**writer.shard.parts(), "step": (6).to_bytes(8, "little")}
    assert head["parts"] == {name: len(part) for name, part in parts.items()}
    for name in sorted(parts):
        assert rest.startswith(parts[name])
        rest = rest[len(parts[name]) :]
    for table, layout, dim in (("narrow", 1, 2), ("wide", 0, 6)):
        line, _, rest = rest.partition(b"\n")
        rows = 1 + writer.shard.live_rows(writer.shard.number[table]).size
        assert orjson.loads(line) == {"table": table, "layout": layout, "values": 1 + dim, "state": 2, "rows": rows}
        row_bytes = 8 + 20 + 4 * (1 + dim + 2)
        found = np.frombuffer(rest, dtype=[("id", "<i8"), ("rest", f"V{row_bytes - 8}")], count=rows)
        rest = rest[rows * row_bytes :]
        assert found["rest"][0].tobytes()[1] == 1
        keys = [int(f"{mixed(id_):064b}"[::-1], 2) for id_ in found["id"][1:].tolist()]
        assert keys == sorted(keys)
    assert rest == b'{"end":true}\n'
    foot = orjson.dumps(foot_of(data), option=orjson.OPT_SORT_KEYS)
    assert data[-8 - len(foot) : -8] == foot
    assert data[-8:-4] == len(foot).to_bytes(4, "little")
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])


def mixed(value: int) -> int:
    """The mixing function as published (MurmurHash3's finalizer), in plain integers."""
    value &= 2**64 - 1
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD % 2**64
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return value ^ value >> 33


def test_a_store_that_holds_a_commit_is_never_loaded_into(writer, path):
    before = stored(writer.log)
    with pytest.raises(NotEmpty, match="holds commit 6-1"):
        load_dump(writer.log, read_dump(path))
    assert stored(writer.log) == before
    learn(writer, 6)
    writer.commit()


def test_every_damaged_byte_is_refused(writer, path):
    data = writer.committed
    places = [*range(64), *range(64, len(data), 37), *range(len(data) - 120, len(data))]
    for place in places:
        for bits in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= bits
            path.write_bytes(damaged)
            with pytest.raises(BadBytes):
                read_dump(path)


def test_a_dump_that_was_cut_short_or_goes_on_is_refused(writer, path):
    data = writer.committed
    for size in [*range(0, 50), len(data) // 2, len(data) - 5, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(BadBytes):
            read_dump(path)
    path.write_bytes(data + b"x")
    with pytest.raises(BadBytes):
        read_dump(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"[1, 2]\n", b'{"a": 1}\n', b"\x00" * 1000, b'"text"', b"7\n"])
def test_a_file_that_is_no_dump_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(BadBytes, match=r"store\.dump: is no dump of a store"):
        read_dump(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format_", ["dolmen-dump-1", "dolmen-dump-9"])
def test_a_dump_of_another_format_is_named(path, packed, format_):
    line = b'{"format":"%s"}\n' % format_.encode()
    path.write_bytes(zstandard.compress(line) if packed else line)
    with pytest.raises(BadBytes, match=f"{format_}.*with the version that wrote it"):
        read_dump(path)


def test_another_file_of_zstd_is_no_dump(path):
    path.write_bytes(zstandard.compress(b"hello\n" * 1000))
    with pytest.raises(BadBytes, match=r"store\.dump: is no dump of a store"):
        read_dump(path)


@pytest.mark.parametrize("late", [False, True])
def test_a_load_that_broke_off_anywhere_can_be_begun_anew(path, writer, redis_url, late):
    dump = read_dump(path)
    for boundary in range(20):
        log = log_for(redis_url)
        try:
            load_dump(flaky_log(log, left=boundary, late=late), dump)
        except StoreUnavailable:
            if log.state().empty:
                load_dump(log, dump)
            assert stored(log) == writer.committed
        else:
            break
    assert boundary > 4


def test_nothing_of_a_broken_off_load_is_left_in_the_next(path, writer, redis_url, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store.change, "CHUNK_ROWS", 7)
    log = log_for(redis_url)
    with pytest.raises(StoreUnavailable):
        load_dump(flaky_log(log, left=9), read_dump(path))
    assert any(b":rows:wide:" in key for key in keys_of(log)) or any(b":rows:narrow:" in key for key in keys_of(log))
    other = Writer(log_for(redis_url))
    see(other.shard, [[1000, 1000]])
    other.commit()
    small = tmp_path / "small.dump"
    small.write_bytes(other.committed)
    load_dump(log, read_dump(small))
    assert stored(log) == other.committed


def test_a_loader_that_was_fenced_changes_nothing_more(path, redis_url):
    log = log_for(redis_url)
    dump = read_dump(path)
    shaky = flaky_log(log, left=3, late=True)
    with pytest.raises(StoreUnavailable):
        load_dump(shaky, dump)
    assert log.state().empty


def test_writing_a_dump_changes_nothing(writer):
    first = dump_of(writer.snapshot())
    assert dump_of(writer.snapshot()) == first
