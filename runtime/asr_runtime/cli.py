"""`asr-run`, the entry point: from here on Ctrl-C ends it in silence, also while all else is being imported."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from threading import Thread
from typing import NoReturn

LAST_WORDS = 1.0  # seconds for them where a signal ends it


def main() -> NoReturn:
    """Entry point of the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, lambda number, _: leave(128 + number, LAST_WORDS))
    from asr_runtime.command import run

    leave(run(sys.argv[1:]))


def leave(code: int, patience: float | None = None) -> NoReturn:
    """End at once, temporary files removed and streams flushed, for which there are `patience` seconds (None: all).

    A worker may be in a read that never returns, and Python would wait for it; and to take down modules and models one
    by one takes it longer than to recognise a sentence.
    """
    atexit._run_exitfuncs()
    # In a thread: a signal's handler must not wait for who holds a stream, and a full pipe's reader may never come.
    flushing = Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(patience)
    os._exit(code)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # its reader has left, the disk is full, or it is closed
            stream.flush()
