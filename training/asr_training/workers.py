"""Work that several processes share, which end with the one that began them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any


def in_processes(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call `work` with each of `jobs` in a process of its own; a SIGTERM ends them all, with exit code 143."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
            pool.starmap(work, jobs)
    finally:
        signal.signal(signal.SIGTERM, before)
