"""docs/asyncapi.yaml says what the code does."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from services.events import check_action, check_impression
from trainer.errors import BadRecord
from trainer.example import check_example, parse_example
from trainer.settings import TopicSettings

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs/asyncapi.yaml").read_text(encoding="utf-8"))
MESSAGES = DOCUMENT["components"]["messages"]
EXAMPLES = {example["name"]: example["payload"] for example in MESSAGES["example"]["examples"]}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    node = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_every_reference_leads_somewhere():
    found = set(references(DOCUMENT))
    assert found
    assert all(resolve(reference) for reference in found)


def test_channels_are_the_topics_of_the_settings():
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert addresses == set(TopicSettings().model_dump().values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_can_be_learned_from(name: str):
    assert parse_example(orjson.dumps(EXAMPLES[name]), ["click"]) == EXAMPLES[name]


@pytest.mark.parametrize("field", DOCUMENT["components"]["schemas"]["example"]["required"])
def test_what_is_required_of_a_message_is_asked_for_by_name(field: str):
    message = {key: value for key, value in EXAMPLES["list"].items() if key != field}
    with pytest.raises(BadRecord, match=f"`{field}` is missing"):
        check_example(message, ["click"])


@pytest.mark.parametrize("field", DOCUMENT["components"]["schemas"]["labelledItem"]["required"])
def test_what_is_required_of_an_item_is_asked_for_by_name(field: str):
    message = copy.deepcopy(EXAMPLES["list"])
    del message["items"][1][field]
    with pytest.raises(BadRecord, match=rf"`items\[1\].{field}` is missing"):
        check_example(message, ["click"])


CHECKS = {"impression": check_impression, "action": check_action}


@pytest.mark.parametrize("name", CHECKS)
def test_shown_lists_and_actions_are_checked_as_described(name: str):
    fullest, smallest = (example["payload"] for example in MESSAGES[name]["examples"])
    required = DOCUMENT["components"]["schemas"][name]["required"]
    CHECKS[name](fullest)
    CHECKS[name](smallest)
    assert set(smallest) == set(required)
    for field in required:
        with pytest.raises(BadRecord, match=f"`{field}` is missing"):
            CHECKS[name]({key: value for key, value in fullest.items() if key != field})


def test_a_shown_item_is_checked_as_described():
    shown = DOCUMENT["components"]["schemas"]["shownItem"]
    fullest, smallest = (example["payload"] for example in MESSAGES["impression"]["examples"])
    assert set(smallest["items"][0]) == set(shown["required"])
    for field in [name for name, allowed in shown["properties"].items() if allowed is False]:
        with pytest.raises(BadRecord, match=rf"`items\[0\].{field}` cannot be known"):
            check_impression({**fullest, "items": [{"id": 1, field: {}}]})


def test_everything_else_may_be_left_out():
    schemas = DOCUMENT["components"]["schemas"]
    assert set(EXAMPLES["smallest"]) == set(schemas["example"]["required"])
    assert set(EXAMPLES["smallest"]["items"][0]) == set(schemas["labelledItem"]["required"])


def test_a_time_out_of_the_range_is_refused():
    ts = DOCUMENT["components"]["schemas"]["example"]["properties"]["ts"]
    for bad in (ts["minimum"] - 1, ts["exclusiveMaximum"], 1.5):
        with pytest.raises(BadRecord, match="`ts` must be an integer"):
            check_example({**EXAMPLES["smallest"], "ts": bad}, ["click"])


def test_the_refused_message_is_refused_for_the_reason_given():
    (letter,) = MESSAGES["deadLetter"]["examples"]
    with pytest.raises(BadRecord) as refused:
        parse_example(letter["payload"].encode(), ["click"])
    assert letter["headers"]["reason"] == str(refused.value)
