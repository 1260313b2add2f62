"""Tables and figures as Markdown has them."""

import gc
from pathlib import Path

from experiments.page import table

__all__ = ["resident_bytes", "table"]


def resident_bytes() -> int:
    """What this process holds in memory, as the kernel counts it."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024
