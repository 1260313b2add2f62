"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import embedding_store
import experiments
import services
import trainer

PACKAGES = (embedding_store, trainer, services, experiments)
MODULES = sorted(
    module.name for package in PACKAGES for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)
EXAMPLES = {
    "embedding_store.commit",
    "embedding_store.encodings.counts",
    "embedding_store.encodings.frequency",
    "embedding_store.encodings.rounding",
    "embedding_store.ids",
    "embedding_store.settings",
    "experiments.page",
    "experiments.run",
    "trainer.json_value",
    "trainer.search.blocks",
    "trainer.search.selection",
    "trainer.settings",
}
"""Modules that had examples when this was written: an import that fails silently would leave them untested."""


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name not in EXAMPLES


def test_modules_with_examples_are_among_those_tested():
    assert EXAMPLES.issubset(MODULES)
