"""Which encoding holds a table, and its parameters."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EncodingKind = Literal["uniform", "low_rank", "frequency", "masked", "hashed", "unified", "nested", "int8"]
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "uniform": (set(), {"dim"}),
    "low_rank": ({"rank"}, set()),
    "frequency": ({"bounds"}, {"power", "dim", "projection"}),
    "masked": ({"plan"}, set()),
    "hashed": ({"buckets"}, {"hashes"}),
    "unified": ({"buckets"}, {"hashes"}),
    "nested": ({"prefixes"}, set()),
    "int8": (set(), {"of"}),
}
"""Keys that each kind needs, and those that it may have."""


class EncodingSettings(BaseModel):
    """One encoding. A key that its kind does not know is a fault, and so is one that is missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: EncodingKind
    dim: int | None = Field(
        default=None, ge=1, description="numbers of a row, of frequency's most frequent block; none: the table's"
    )
    rank: int | None = Field(default=None, ge=1, description="of low_rank: numbers of a row")
    bounds: tuple[int, ...] | None = Field(
        default=None, description="of frequency: counts from which on a new block begins, rising, from 1 on"
    )
    power: float = Field(default=0.3, ge=0, description="of frequency: how fast dimensions fall with popularity")
    projection: bool = Field(
        default=True, description="of frequency: a learned projection a block; else the first axes are kept"
    )
    plan: dict[str, Any] | None = Field(default=None, description="of masked: a table's dimension plan")
    buckets: int | None = Field(default=None, ge=1, lt=1 << 32, description="of hashed and unified: rows")
    hashes: int = Field(
        default=1, ge=1, le=16, description="hashed: 1, or 2 whose rows are summed; unified: lookups, side by side"
    )
    prefixes: tuple[int, ...] | None = Field(default=None, description="of nested: lengths that can be served, rising")
    of: "EncodingSettings | None" = Field(default=None, description="of int8: what is rounded; none: uniform")

    @model_validator(mode="after")
    def _keys(self) -> "EncodingSettings":
        needed, allowed = _KEYS[self.kind]
        given = {name for name in self.model_fields_set if getattr(self, name) is not None} - {"kind"}
        faults = [f"encoding.{key}: {self.kind} needs it" for key in sorted(needed - given)]
        faults += [
            f"encoding.{key}: does not go with {self.kind}" for key in sorted(self._changed(given, needed | allowed))
        ]
        if self.kind == "hashed" and self.hashes > 2:
            faults.append("encoding.hashes: must be 1 or 2")
        for key in ("bounds", "prefixes"):
            values = getattr(self, key)
            if values is not None and (list(values) != sorted(set(values)) or any(v < 1 for v in values)):
                faults.append(f"encoding.{key}: must rise, from 1 on")
        if self.prefixes == ():
            faults.append("encoding.prefixes: must name at least one")
        if self.of is not None and self.of.kind == "int8":
            faults.append("encoding.of: is int8 itself")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _changed(self, given: set[str], known: set[str]) -> set[str]:
        """Keys given that the kind does not know, unless they say their default, as JSON written back does."""
        return {k for k in given - known if getattr(self, k) != type(self).model_fields[k].default}
