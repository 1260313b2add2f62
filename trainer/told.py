"""`told` of a message: the items of its list that left in earlier messages, with the labels and outcomes they had.

Statistics and sequences know of those already. By `told`, what a list's own items brought is left out of what its later
examples read, and an item that comes again is not counted again. A correction without `told` says only that its item
came before.
"""

from collections.abc import Mapping
from typing import Any

import xxhash

from trainer.errors import BadRecord
from trainer.json_value import MISSING, must


def check_told(message: Mapping[str, Any]) -> frozenset[str]:
    """The items that a message tells of, as texts.

    Raises:
        BadRecord: If `told` is not a list of items, or `request_id` does not say of which list they are.
    """
    told = message.get("told", MISSING)
    if told is MISSING:
        return frozenset()
    if type(told) is not list:
        raise BadRecord("schema", f"`told` {must(told, 'be a list of items')}")
    for index, item in enumerate(told):
        if type(item) is not dict:
            raise BadRecord("schema", f"`told[{index}]` {must(item, 'be an object')}")
        if "id" not in item:
            raise BadRecord("schema", f"`told[{index}].id` is missing")
        for part in ("labels", "outcomes"):
            if type(item.get(part, {})) is not dict:
                raise BadRecord("schema", f"`told[{index}].{part}` {must(item[part], 'be an object')}")
    if told and not request_number(message):
        raise BadRecord("schema", "`request_id` is missing; a message with `told` must name its list by a string")
    return frozenset(str(item["id"]) for item in told)


def told_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items that a checked message tells of."""
    if "told" in message:
        return message["told"]  # type: ignore[no-any-return]  # checked to be a list of objects
    corrected = [item for item in message["items"] if item.get("correction", False)]
    return [{key: value for key, value in item.items() if key not in ("labels", "outcomes")} for item in corrected]


def request_number(message: Mapping[str, Any]) -> int:
    """A number for the list that a message is part of; 0 if it does not say."""
    request = message.get("request_id")
    return (
        (xxhash.xxh3_64_intdigest(request.encode("utf-8", "surrogatepass")) >> 1) | 1
        if type(request) is str and request
        else 0
    )
