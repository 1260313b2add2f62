"""Kernels: what compiles, and what they leave alone."""

import gc
import sys
import weakref

import numba
import numpy as np
import pytest

from embedding_store.kernel import kernel


def _make(size: int) -> int:
    return np.empty(size).size


def _sum(values: tuple[np.ndarray, np.ndarray]) -> float:
    total = 0.0
    for part in values:
        rest = part[1:]
        for i in range(rest.size):
            total += rest[i]
    return total


def test_a_kernel_that_makes_an_array_does_not_compile():
    with pytest.raises(numba.core.errors.TypingError, match="returning of array"):
        kernel(cache=False)(_make)(3)


def test_a_kernel_may_call_one_that_makes_arrays():
    inner = kernel(cache=False, _nrt=True)(_make)

    def outer(size):
        return inner(size) + 1

    assert kernel(cache=False)(outer)(3) == 4


def test_a_kernel_keeps_no_hold_of_its_arrays_and_lets_none_go():
    compiled = kernel(cache=False)(_sum)
    first, second = np.arange(1000.0), np.ones(1000)
    held = sys.getrefcount(first)
    for _ in range(100):
        assert compiled((first, second)) == 999 * 500 + 999
    assert sys.getrefcount(first) == held
    there = weakref.ref(second)
    del second
    gc.collect()
    assert there() is None
    assert first[-1] == 999.0
