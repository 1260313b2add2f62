"""Ways to lay rows in Redis, measured: memory, folding, reading. Prints a table and JSON.

Every way runs on a server of its own (append-only file on), is filled with the same rows of width 16 with row-wise
Adagrad, and is changed and read in the same order. `server` columns are the server's own processor time.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.layouts import ROW, Halves, Hashes, Ids, KeyEach, Layout, Make, Pages, Records, random_rows
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.redis_client import Client, connect
from embedding_store.settings import StoreSettings
from services.local.binaries import valkey_binary
from services.local.ports import free_port
from services.local.probes import answers_ping
from services.local.servers import HOST, Server, ServerCommand


@dataclass(slots=True)
class Measured:
    """One way on one server; times in µs a row unless said."""

    layout: str
    server: str
    bytes_per_row: float = 0.0
    ratio: float = 0.0
    bulk_rows_per_second: float = 0.0
    bulk_server_us: float = 0.0
    zipf_rows_per_second: float = 0.0
    zipf_server_us: float = 0.0
    uniform_rows_per_second: float = 0.0
    uniform_server_us: float = 0.0
    read_500_ms: float = 0.0
    scan_rows_per_second: float = 0.0
    longest_command_ms: float = 0.0


def _cpu_s(client: Client) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def _fastest(client: Client, layout: Layout, changes: list[tuple[Ids, Records]]) -> tuple[float, float]:
    """Writes all; gives rows a second and the server's processor time a row in µs, of the fastest each.

    What else runs on the machine only ever makes it slower.
    """
    times = []
    for ids, records in changes:
        cpu, start = _cpu_s(client), time.perf_counter()
        layout.write(ids, records)
        took = time.perf_counter() - start
        times.append((took / ids.size, (_cpu_s(client) - cpu) / ids.size))
    return 1 / min(took for took, _ in times), min(cpu for _, cpu in times) * 1e6


def measure(name: str, server: str, log: CommitLog, make: Make, rows: int) -> Measured:
    """Fills, changes and reads one layout on an empty server."""
    found = Measured(name, server)
    client, rng = log.client, np.random.default_rng(1)
    ids = rng.integers(0, 2**63 - 1, rows, dtype=np.int64)
    before = client.info("memory")["used_memory"]
    layout = make(log, ids)

    parts = [(some, random_rows(some, rng)) for some in np.array_split(ids, max(1, rows // 50_000))]
    found.bulk_rows_per_second, found.bulk_server_us = _fastest(client, layout, parts)
    found.bytes_per_row = (client.info("memory")["used_memory"] - before) / rows
    found.ratio = found.bytes_per_row / ROW
    client.config_set("slowlog-log-slower-than", 1000)
    client.config_set("slowlog-max-len", 10_000)
    client.slowlog_reset()
    for kind in ("zipf", "uniform"):
        picks = [_pick(kind, rows, rng) for _ in range(8)]
        changes = [(ids[pick], random_rows(ids[pick], rng)) for pick in picks]
        speed, cpu = _fastest(client, layout, changes)
        setattr(found, f"{kind}_rows_per_second", speed)
        setattr(found, f"{kind}_server_us", cpu)
    found.longest_command_ms = max((entry["duration"] for entry in client.slowlog_get(10_000)), default=0) / 1000
    times = []
    for _ in range(41):
        wanted = ids[rng.integers(0, rows, 500)]
        start = time.perf_counter()
        if layout.read(wanted) != wanted.size:
            raise RuntimeError(f"{name}: rows are lacking")
        times.append(time.perf_counter() - start)
    found.read_500_ms = float(np.median(times)) * 1000
    start = time.perf_counter()
    scanned = layout.scan()
    found.scan_rows_per_second = rows / (time.perf_counter() - start)
    if scanned < rows:
        raise RuntimeError(f"{name}: {scanned} of {rows} rows were scanned")
    return found


def _pick(kind: str, rows: int, rng: np.random.Generator) -> Ids:
    """The distinct rows of two seconds: some 12,000 of zipf ids, or 200,000 of evenly seen ones."""
    if kind == "uniform":
        return rng.choice(rows, min(200_000, rows // 2), replace=False)
    drawn = rng.zipf(1.1, 200_000) - 1
    return np.unique(drawn[drawn < rows])[:12_000]


SMALL = ("--hash-max-listpack-value", "256")


def layouts(rows: int) -> list[tuple[str, tuple[str, ...], Make]]:
    """Name, options of the server, and how to make it."""

    def hashes(number: int) -> Make:
        return lambda log, ids: Hashes(log, number)

    def of(each: int) -> int:
        return -(-rows // each)

    return [
        ("16 hashes", (), hashes(16)),
        ("64 hashes", (), hashes(64)),
        ("1024 hashes", (), hashes(1024)),
        ("hashes of 32 rows, limit 256", SMALL, hashes(of(32))),
        ("**hashes of 64 rows, limit 256**", SMALL, hashes(of(64))),
        ("hashes of 128 rows, limit 256", SMALL, hashes(of(128))),
        ("hashes of 64 rows, default limit", (), hashes(of(64))),
        ("hashes of 64 rows, each in two fields", (), lambda log, ids: Halves(log, of(64))),
        ("one key a row", (), lambda log, ids: KeyEach(log)),
        ("strings of 64 rows, places remembered", (), lambda log, ids: Pages(log, ids)),
    ]  # fmt: skip


def start(binary: str, directory: Path, options: tuple[str, ...]) -> Server:
    """An empty server that keeps an append-only file."""
    port = free_port()
    aof = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
    where = ("--port", str(port), "--bind", HOST, "--dir", str(directory), "--save", "")
    command = (binary, *where, *aof, *options)
    url = f"redis://{HOST}:{port}/0"
    return Server(ServerCommand("redis", command, port, lambda: answers_ping(HOST, port), url), directory / "log")


def table(results: list[Measured]) -> str:
    """The results as Markdown."""
    lines = [
        "| layout | server | bytes a row | of payload | bulk: k rows/s, server µs | zipf: k rows/s, server µs "
        "| uniform: k rows/s, server µs | read 500 | scan | longest command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.layout} | {m.server} | {m.bytes_per_row:.0f} | {m.ratio:.2f} | {m.bulk_rows_per_second / 1e3:.0f}, "
        f"{m.bulk_server_us:.1f} | {m.zipf_rows_per_second / 1e3:.0f}, {m.zipf_server_us:.1f} | "
        f"{m.uniform_rows_per_second / 1e3:.0f}, {m.uniform_server_us:.1f} | {m.read_500_ms:.1f} ms | "
        f"{m.scan_rows_per_second / 1e6:.2f} M/s | {m.longest_command_ms:.1f} ms |"
        for m in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="part of a layout's name")
    args = parser.parse_args()
    servers = {"Valkey": str(valkey_binary())}
    if found := shutil.which("redis-server"):
        servers["Redis"] = found
    results = []
    for kind, binary in servers.items():
        for name, options, make in layouts(args.rows):
            if args.only not in name:
                continue
            with tempfile.TemporaryDirectory() as place, start(binary, Path(place), options) as server:
                log = CommitLog(connect(StoreSettings(url=server.url, timeout="60s")), Keys("d"))
                info = log.client.info("server")
                version = info.get("valkey_version") or info["redis_version"]
                results.append(measure(name, f"{kind} {version}", log, make, args.rows))
                log.client.close()
                print(results[-1], file=sys.stderr)
    print(table(results))
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
