"""What a trainer holds, saved where its store lost everything."""

from pathlib import Path

from embedding_store.bootstrap import Snapshot
from embedding_store.dump import write_dump


def rescue(path: Path, held: Snapshot) -> str:
    """Writes a dump of what is held; says where it is, what to do with it, and what is missing there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_dump(file, held)
    away = int(held.shard.away.sum())
    lacking = f", but for {away} rows that trainer.memory_budget had kept in the store only" if away else ""
    return f"What this trainer held is in {path}; `dolmen store load {path}` brings it back{lacking}"
