"""Replay without Kafka: pace, messages, the loop with a sink of its own, live numbers."""

import io
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from services.cli.replay import register
from services.replay.display import ReplayDisplay, gauge_texts, summary
from services.replay.errors import ReplayError
from services.replay.gauges import GaugeReader, Gauges, quantile, read_gauges
from services.replay.message import Message, encode, encode_lines
from services.replay.pace import MAX, Pace, Rate, parse_rate
from services.replay.stream import Progress, replay


class Clock:
    """Time that passes only by sleeping, and a little with every look."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ListSink:
    """Acknowledges what is older than `delay_s`."""

    def __init__(self, clock: Clock, delay_s: float = 0.0, bound: int = 1000, lost_at: int | None = None) -> None:
        self.sent: list[tuple[float, Message]] = []
        self.most_pending = 0
        self._clock, self._delay_s, self._bound, self._lost_at = clock, delay_s, bound, lost_at

    def send(self, message: Message) -> None:
        self.sent.append((self._clock.now - 100, message))
        self.most_pending = max(self.most_pending, self.pending())

    def pending(self) -> int:
        if self._lost_at is not None and len(self.sent) > self._lost_at:
            raise ReplayError("lost")
        return sum(at + self._delay_s > self._clock.now - 100 for at, _ in self.sent)

    def is_full(self) -> bool:
        return self.pending() >= self._bound


def messages(count: int, examples: int = 10, step_ms: int = 1000) -> list[Message]:
    return [Message(b"%d" % index, b"k", examples, 5000 + index * step_ms) for index in range(count)]


def run(sink: ListSink, clock: Clock, stream: list[Message], rate: Rate = MAX) -> Progress:
    return replay(stream, sink, rate, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize("text", ["", "fast", "0", "x0", "-5", "x", "1e3", "nan", "x-1", "10x"])
def test_what_is_no_rate_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate; write"):
        parse_rate(text)


def test_a_rate_is_examples_a_second_or_a_multiple_of_event_time() -> None:
    by_count = Pace(parse_rate("200"))
    assert [by_count.due_s(sent, 0) for sent in (0, 10, 400)] == [0.0, 0.05, 2.0]
    by_time = Pace(parse_rate("x60"))
    assert [by_time.due_s(0, ts) for ts in (7000, 67_000, 127_000, None)] == [0.0, 1.0, 2.0, 0.0]


def test_all_messages_go_out_in_order_and_are_acknowledged() -> None:
    clock = Clock()
    sink = ListSink(clock, delay_s=0.5)
    progress = run(sink, clock, messages(50))
    assert [m.value for _, m in sink.sent] == [b"%d" % i for i in range(50)]
    assert (progress.examples, progress.messages, progress.finished) == (500, 50, True)
    assert sink.pending() == 0


def test_messages_leave_at_the_rate_asked() -> None:
    clock = Clock()
    sink = ListSink(clock)
    run(sink, clock, messages(21), Rate(examples_per_s=100))
    assert [at for at, _ in sink.sent] == pytest.approx([index * 0.1 for index in range(21)], abs=0.01)


def test_messages_leave_at_a_multiple_of_event_time() -> None:
    clock = Clock()
    sink = ListSink(clock)
    run(sink, clock, messages(5, step_ms=30_000), Rate(speedup=10))
    assert [at for at, _ in sink.sent] == pytest.approx([0, 3, 6, 9, 12], abs=0.01)


def test_no_more_is_sent_than_the_sink_can_hold() -> None:
    clock = Clock()
    sink = ListSink(clock, delay_s=1.0, bound=7)
    assert run(sink, clock, messages(30)).finished
    assert sink.most_pending == 7


def test_a_stop_ends_a_replay_that_waits_for_its_pace() -> None:
    clock = Clock()
    sink = ListSink(clock)
    progress = replay(
        messages(3, step_ms=3_600_000),
        sink,
        Rate(speedup=1),
        stopped=lambda: clock.now > 110,
        clock=clock,
        sleep=clock.sleep,
    )
    assert (progress.messages, progress.finished) == (1, False)
    assert clock.now < 111


def test_a_stop_gives_what_was_sent_five_seconds() -> None:
    clock = Clock()
    sink = ListSink(clock, delay_s=1000)
    progress = replay(messages(3), sink, stopped=lambda: clock.now > 101, clock=clock, sleep=clock.sleep)
    assert not progress.finished
    assert clock.now == pytest.approx(106, abs=0.1)


def test_a_stop_after_the_last_acknowledgement_is_none() -> None:
    clock = Clock()
    sink = ListSink(clock)
    asked = iter(range(10_000))
    progress = replay(messages(1), sink, stopped=lambda: next(asked) > 2, clock=clock, sleep=clock.sleep)
    assert progress.finished


@pytest.mark.parametrize("rate", [MAX, Rate(examples_per_s=10)])
def test_a_lost_message_ends_the_replay(rate: Rate) -> None:
    clock = Clock()
    sink = ListSink(clock, lost_at=3)
    with pytest.raises(ReplayError):
        run(sink, clock, messages(50), rate)
    assert len(sink.sent) == 4


def test_progress_is_told_about_ten_times_a_second_and_at_the_end() -> None:
    clock = Clock()
    told: list[Progress] = []
    replay(messages(300), ListSink(clock), Rate(examples_per_s=1000), told.append, clock=clock, sleep=clock.sleep)
    assert 25 <= len(told) <= 35
    assert told[-1].finished
    assert [p.examples for p in told] == sorted(p.examples for p in told)


def test_a_message_carries_the_users_id_as_key_and_counts_its_items() -> None:
    first, second = encode(
        [
            {"ts": 5, "user": {"id": 42}, "items": [{"id": 1}, {"id": 2}]},
            {"ts": 6, "user": {"id": "ü"}, "items": [{"id": 1}]},
        ]
    )
    assert (first.key, first.examples, first.ts) == (b"42", 2, 5)
    assert orjson.loads(first.value)["items"] == [{"id": 1}, {"id": 2}]
    assert (second.key, second.examples) == ("ü".encode(), 1)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"7", b'{"user": 3, "items": 4, "ts": "x"}', b'{"user": {"id": [1]}}'])
def test_a_malformed_line_is_sent_as_it_is_and_counts_as_one(line: bytes) -> None:
    (message,) = encode_lines([line])
    assert message == Message(line, None, 1, None)


def test_blank_lines_are_left_out_and_a_limit_counts_items() -> None:
    two = b'{"user": {"id": 1}, "items": [{}, {}]}'
    assert [m.value for m in encode_lines([two, b"", b"  ", b"bad", two, two], limit=5)] == [two, b"bad", two]
    assert [m.value for m in encode_lines([two, two], limit=3)] == [two]


TRAINER = """\
# TYPE dolmen_online_auc gauge
dolmen_online_auc{task="click",window="all"} 0.7213
dolmen_online_auc{task="click",window="10000"} 0.9
dolmen_online_auc{task="like",window="all"} NaN
# TYPE dolmen_examples_total counter
dolmen_examples_total{task="click"} 94784
dolmen_examples_total{task="like"} 12
# TYPE dolmen_store_rows gauge
dolmen_store_rows{table="user"} 100
dolmen_store_rows{table="video"} 20
# TYPE dolmen_consumer_lag gauge
dolmen_consumer_lag{topic="dolmen.examples",partition="0"} 3
dolmen_consumer_lag{topic="dolmen.examples",partition="1"} 4
"""
JOINER = """\
# TYPE dolmen_consumer_lag gauge
dolmen_consumer_lag{topic="dolmen.actions",partition="0"} 5
# TYPE dolmen_joiner_pending gauge
dolmen_joiner_pending 1200
"""
RANKER = """\
# TYPE dolmen_freshness_seconds histogram
dolmen_freshness_seconds_bucket{le="0.1"} 0
dolmen_freshness_seconds_bucket{le="0.2"} 50
dolmen_freshness_seconds_bucket{le="0.4"} 100
dolmen_freshness_seconds_bucket{le="+Inf"} 100
dolmen_freshness_seconds_count 100
dolmen_freshness_seconds_sum 20
"""


def test_live_numbers_come_from_all_endpoints() -> None:
    gauges = read_gauges([TRAINER, RANKER])
    assert gauges.online_auc == {"click": 0.7213}
    assert (gauges.examples, gauges.rows, gauges.consumer_lag) == (94_784, 120, 7)
    assert gauges.freshness_p50_s() == pytest.approx(0.2)
    assert gauges.pending is None
    both = read_gauges([TRAINER, JOINER])
    assert (both.consumer_lag, both.pending) == (12, 1200)
    assert gauge_texts(both)[-2:] == ["1,200 lists wait", "lag 12"]
    assert read_gauges([]) == Gauges()


def test_freshness_counts_from_an_earlier_reading_unless_the_ranker_was_restarted() -> None:
    before = Gauges(freshness={0.1: 0, 0.2: 50, 0.4: 60, math.inf: 60})
    now = read_gauges([RANKER])
    assert now.freshness_p50_s(before) == pytest.approx(0.3)
    assert before.freshness_p50_s(now) == before.freshness_p50_s()


@pytest.mark.parametrize(
    ("buckets", "median"),
    [({}, None), ({1.0: 0, math.inf: 0}, None), ({1.0: 4, math.inf: 4}, 0.5), ({1.0: 1, math.inf: 4}, 1.0)],
)
def test_a_median_is_interpolated_and_never_infinite(buckets: dict[float, float], median: float | None) -> None:
    assert quantile(buckets, 0.5) == median


def test_an_endpoint_that_does_not_answer_leaves_the_numbers_unknown() -> None:
    assert GaugeReader(["http://127.0.0.1:1/metrics"]).read() == Gauges()


def test_without_a_terminal_progress_is_a_line_every_five_seconds() -> None:
    out = io.StringIO()
    with ReplayDisplay("kuairand", 1000, Console(file=out, width=200)) as display:
        for second in range(12):
            display.update(Progress(second * 50, second, float(second)), read_gauges([TRAINER, RANKER]))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "kuairand: 250 of 1,000 examples · 50 examples/s · AUC click 0.7213 · 120 rows · freshness 0.20 s · lag 7"
    )


def test_on_a_terminal_progress_is_a_bar_with_the_same_numbers() -> None:
    out = io.StringIO()
    with ReplayDisplay("kuairand", 1000, Console(file=out, width=200, force_terminal=True)) as display:
        display.update(Progress(400, 40, 2.0), read_gauges([TRAINER]))
    assert "400/1000" in out.getvalue()
    assert "200 examples/s · AUC click 0.7213 · 120 rows · lag 7" in out.getvalue()


def test_the_summary_says_when_a_replay_was_stopped() -> None:
    assert summary("x", Progress(10, 1, 2.0, False)).endswith("(5 examples/s); stopped before the end")
    assert "stopped" not in summary("x", Progress(10, 1, 2.0, True))


@pytest.fixture
def command() -> Iterator[typer.Typer]:
    app = typer.Typer()
    register(app)
    before = signal.getsignal(signal.SIGINT)
    yield app
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "one of --dataset and --file"),
        (["--dataset", "netflix"], "kuairand"),
        (["--dataset", "kuairand", "--topic", "events", "--lost", "2"], "--lost"),
        (["--dataset", "kuairand", "--topic", "events", "--delay", "soon"], "250ms"),
        (["--dataset", "kuairand", "--topic", "nonsense"], "examples"),
        (["--dataset", "kuairand", "--rate", "quick"], "x60"),
        (["--dataset", "kuairand", "--limit", "0"], "--limit"),
        (["--file", "/there/is/no/such/file"], "--file"),
    ],
)
def test_bad_usage_ends_with_code_two_and_names_the_remedy(
    command: typer.Typer, arguments: list[str], word: str
) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(command, arguments)
    assert result.exit_code == 2
    assert word in result.output


def test_without_kafka_the_message_names_up_and_the_setting(command: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--dataset", "kuairand", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "dolmen up" in result.output
    assert "events.bootstrap_servers" in result.output
