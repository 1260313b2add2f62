"""What every long-running process does at its start: logging, and an orderly end on signals."""

import gc
import logging
import signal
import sys
import threading


def setup_logging() -> None:
    """One line an event on stderr, with time and level."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # its failures are told by whoever waits for it


def tune_garbage_collection() -> None:
    """Makes the cycle collector run rarely: decoding events makes many objects and no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
