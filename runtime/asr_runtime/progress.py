"""What `asr-run` says on standard error: errors, a bar on a terminal, and the account at the end."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from asr_runtime.errors import AsrError
from asr_runtime.recognizer import Recognizer

REDRAWN = 0.2  # seconds between two pictures of the bar
BAR = 20  # characters


def say(error: object) -> None:
    """One line on standard error, whatever a file's name holds."""
    # In one piece: libraries that decode on other threads write there, too, and print writes word by word.
    sys.stderr.write(" ".join(["asr-run:", *str(error).split("\n")]) + "\n")


class Report:
    """Counts what is done and what failed, and tells it."""

    def __init__(self, *, quiet: bool, verbose: bool, debug: bool) -> None:
        self.failed = self._done = 0
        self._quiet, self._verbose, self._debug = quiet, verbose, debug
        self._total = 0
        self._begin = perf_counter()
        self._recognizer: Recognizer | None = None
        self._shows = sys.stderr.isatty() and not quiet and not os.environ.get("NO_COLOR")
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def loaded(self, recognizer: Recognizer, total: int) -> None:
        """Begin with `total` inputs: with --verbose the bundle and the engine; on a terminal the bar."""
        self._recognizer, self._total, self._begin = recognizer, total, perf_counter()
        if self._verbose:
            bundle = recognizer.bundle
            print(f"{bundle.name}, {bundle.language}, {bundle.licence}, from {bundle.folder}", file=sys.stderr)
            print(f"{recognizer.engine.device}: {recognizer.engine.description}", file=sys.stderr)
        if self._shows:
            threading.Thread(target=self._redraw, daemon=True).start()

    def kept(self, count: int, total: int) -> None:
        """Say how many of the inputs were written in an earlier run, where there are some."""
        if count and not self._quiet:
            print(f"{count} of {total} recordings have their output already and are left out", file=sys.stderr)

    def failure(self, error: AsrError) -> None:
        """One line for an input that failed."""
        self.failed += 1
        with self._lock:
            self._clear()
            if self._debug:
                traceback.print_exception(error)
            say(error)

    def step(self) -> None:
        """One more input is done."""
        self._done += 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Without the bar, for what is written to standard output: it may be the same terminal."""
        with self._lock:
            self._clear()
            yield

    def finished(self) -> None:
        """The account, and with --verbose where the time went."""
        self._stopped.set()
        with self._lock:
            self._clear()
        if self._recognizer is None:
            return
        seconds = self._recognizer.seconds
        if self._verbose:
            voice = f"voice {seconds.voice:.3f}, " if seconds.voice else ""
            print(
                f"seconds: read {seconds.read - seconds.resample - seconds.voice:.3f}, "
                f"resample {seconds.resample:.3f}, {voice}"
                f"inference {seconds.inference:.3f}, decode {seconds.decode:.3f}",
                file=sys.stderr,
            )
        if seconds.audio and not self._quiet:
            engine, threads = self._recognizer.engine, self._recognizer.threads
            where = f"{engine.device} ({engine.description}), {threads} thread{'s' * (threads > 1)}"
            print(f"{_account(seconds.audio, perf_counter() - self._begin)}, {where}", file=sys.stderr)

    def _redraw(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                if not self._stopped.is_set():
                    width = shutil.get_terminal_size().columns - 1
                    print("\r\x1b[K" + self._bar()[:width], end="", file=sys.stderr, flush=True)
            self._stopped.wait(REDRAWN)

    def _bar(self) -> str:
        heard = self._recognizer.heard if self._recognizer else 0.0
        wall = perf_counter() - self._begin
        share = self._done / self._total if self._total else 0.0
        filled = round(BAR * share)
        left = f", {_clock(wall / share - wall)} left" if share else ""
        factor = f", real-time factor {wall / heard:.4f}" if heard else ""
        return (
            f"{share:4.0%} [{'#' * filled}{'.' * (BAR - filled)}] {self._done}/{self._total} files, "
            f"{heard / 3600:.2f} h of audio{factor}{left}"
        )

    def _clear(self) -> None:
        if self._shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _account(audio: float, wall: float) -> str:
    factor = f", real-time factor {wall / audio:.4f}" if audio else ""
    return f"{audio:.1f} s of audio in {wall:.2f} s{factor}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
