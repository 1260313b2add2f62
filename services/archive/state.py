"""How far a topic is archived: one small file in the archive, which changes in one step."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from services.archive.errors import ArchiveError

STATE = "_dolmen.json"
"""Its name. Readers of Parquet folders pass over names that begin like this."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Generation:
    """One life of a topic. One that is deleted and made anew has another id, and offsets that begin again.

    Attributes:
        topic_id: The topic's identity.
        offsets: By partition, the next offset to archive.
    """

    topic_id: str
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class State:
    """What an archive holds.

    Attributes:
        topic: The topic's name.
        generations: The oldest first; only the last one grows.
        writer: Who writes here now.
        unfinished: Files of a flush that may have been broken off: they may be there or not, and count for nothing.
    """

    topic: str
    generations: tuple[Generation, ...] = ()
    writer: str = ""
    unfinished: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As it is stored.

        >>> state = State("t", (Generation("a", {0: 3}),), "w")
        >>> State.from_bytes(state.to_bytes()) == state
        True
        """
        generations = [
            {"topic_id": one.topic_id, "offsets": {str(p): offset for p, offset in sorted(one.offsets.items())}}
            for one in self.generations
        ]
        value = {
            "version": _VERSION,
            "topic": self.topic,
            "generations": generations,
            "writer": self.writer,
            "unfinished": self.unfinished,
        }
        return orjson.dumps(value, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """What :meth:`to_bytes` gave.

        Raises:
            ArchiveError: If it is something else, or of a later version.
        """
        try:
            value = orjson.loads(data)
            if value["version"] != _VERSION:
                raise ArchiveError(f"{STATE} has version {value['version']}; this Dolmen knows {_VERSION}")
            generations = tuple(
                Generation(one["topic_id"], {int(p): int(offset) for p, offset in one["offsets"].items()})
                for one in value["generations"]
            )
            return cls(value["topic"], generations, value["writer"], tuple(value["unfinished"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{STATE} cannot be read: {error!r}; restore it from a copy") from error
