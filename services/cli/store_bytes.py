"""How many bytes of each table the running processes hold, as their own metrics say."""

from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

_METRIC = "dolmen_store_bytes"
_TIMEOUT_S = 2.0


def add_held_bytes(tables: Mapping[str, dict[str, Any]], urls: Mapping[str, str]) -> None:
    """Adds ``trainer_bytes`` and ``ranker_bytes`` to the tables that a process tells about.

    Args:
        tables: What is known of each.
        urls: Metrics endpoints by process. One that does not answer, or says nothing of this, is left out.
    """
    for name, url in urls.items():
        for table, held in _held_bytes(url).items():
            if table in tables:
                tables[table][f"{name}_bytes"] = held


def _held_bytes(url: str) -> dict[str, int]:
    try:
        text = httpx.get(url, timeout=_TIMEOUT_S, follow_redirects=True).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.labels["table"]: int(sample.value) for sample in samples if sample.name == _METRIC}
    except (httpx.HTTPError, ValueError, KeyError):
        return {}
