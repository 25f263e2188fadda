"""`asr-run`, the entry point: from here on Ctrl-C ends it in silence, also while all else is being imported."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, lambda number, _: leave(128 + number))
    from asr_runtime.command import run

    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End at once, temporary files removed.

    A worker may be in a read that never returns, and Python would wait for it; and to take down modules and models one
    by one takes it longer than to recognise a sentence.
    """
    atexit._run_exitfuncs()
    os._exit(code)
