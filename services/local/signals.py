"""Signals that ask a process to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_stop_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Calls back on Ctrl-C, SIGTERM and a closed terminal, every time. Only on the main thread.

    Args:
        callback: Runs inside the signal handler, so it must be short; it may raise.
    """
    before = {number: signal.getsignal(number) for number in _STOPPING}
    if before[signal.SIGHUP] is signal.SIG_IGN:  # as `nohup` left it
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, lambda *_: callback())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Holds these signals back, so that an orderly end is not cut short. Off the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with on_stop_signals(lambda: None):
        yield
