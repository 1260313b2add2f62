"""How loops over arrays are compiled."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a function that only reads and writes the arrays that it is given.

    Numba compiles it without the lock of Python and without reference counts; the caller holds the arrays meanwhile.
    What makes an array in it does not compile.

    Args:
        options: Numba's, such as ``inline="always"``; ``_nrt=True`` for a function that makes arrays, which kernels
            may call.
    """
    settings = {"nogil": True, "cache": True, "_nrt": False} | options
    decorator: Callable[[Callable[..., Any]], Any] = numba.njit(**settings)
    return decorator
