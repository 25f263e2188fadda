"""Many recordings at once: reading, inference and decoding overlap on worker threads; results come in input order.

A worker's task is one of three: read some windows of a recording, run a batch of windows of like length through the
engine, or stitch and decode a recording whose windows are all through. All of them release Python's lock while they
work. The caller's thread hands out the tasks and never has more of them under way than keep the workers busy.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from asr_runtime.audio import Samples
from asr_runtime.decoder import Hypothesis
from asr_runtime.engines import Engine, pad
from asr_runtime.windows import Windows

LogProbs = NDArray[np.float32]
T = TypeVar("T")

READ_WINDOWS = 4  # that one task reads of a recording before others get their turn
BATCHES_WAITING = 3  # worth of windows from which one batch of like length is chosen


class Decoder(Protocol):
    """Turns log-probabilities into hypotheses."""

    def decode(self, log_probs: LogProbs) -> list[Hypothesis]:
        """The hypotheses for `log_probs` [frames, tokens], the best first."""


@dataclass
class Seconds:
    """Seconds of audio, and the seconds that threads spent in each stage."""

    audio: float = 0.0
    read: float = 0.0
    inference: float = 0.0
    decode: float = 0.0


@dataclass(eq=False)
class Job(Generic[T]):
    """A recording on its way; `outcome` becomes its hypotheses or its error, `samples` counts what was read."""

    recording: T
    samples: int = 0
    log_probs: dict[int, LogProbs] = field(default_factory=dict)
    windows: int | None = None  # how many there are, once the last is through
    outcome: Future[list[Hypothesis]] = field(default_factory=Future)

    def fail(self, error: BaseException) -> None:
        """Let the recording end with its first error."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


@dataclass(eq=False)
class Window(Generic[T]):
    """Window `number` of a recording."""

    job: Job[T]
    number: int
    samples: Samples
    last: bool


class Pipeline(Generic[T]):
    """Runs recordings through an engine and a decoder on `threads` threads.

    Up to `batch_size` windows go through the engine together, of at most `batch_samples` with their padding; without
    `padding` only windows of one length do.
    """

    def __init__(
        self,
        open_recording: Callable[[T], Iterator[Samples]],
        engine: Engine,
        decoder: Decoder,
        windows: Windows,
        *,
        batch_size: int,
        batch_samples: int,
        threads: int,
        padding: bool = True,
    ) -> None:
        self.seconds = Seconds()
        self._open, self._engine, self._decoder, self._windows = open_recording, engine, decoder, windows
        self._batch_size, self._batch_samples, self._threads = batch_size, batch_samples, threads
        self._padding, self._lock = padding, threading.Lock()

    def run(self, recordings: Iterable[T]) -> Iterator[Job[T]]:
        """The jobs, each with its outcome, in the order of `recordings`, which are taken as they are needed."""
        workers = ThreadPoolExecutor(self._threads, thread_name_prefix="asr")
        jobs: deque[Job[T]] = deque()
        under_way: deque[Future[None]] = deque()
        try:
            for batch in self._batches(self._read_ahead(recordings, jobs, workers)):
                under_way.append(workers.submit(self._infer, batch, workers))
                while len(under_way) > self._threads:
                    under_way.popleft().result()
                while jobs and jobs[0].outcome.done():
                    yield jobs.popleft()
            while jobs:
                jobs[0].outcome.exception()  # waits
                yield jobs.popleft()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)

    def _read_ahead(
        self, recordings: Iterable[T], jobs: deque[Job[T]], workers: ThreadPoolExecutor
    ) -> Iterator[Window[T]]:
        """The windows of all recordings in order; those of the next recordings are being read meanwhile."""
        reading: deque[Iterator[Window[T]]] = deque()
        for recording in recordings:
            job = Job(recording)
            jobs.append(job)
            reading.append(self._job_windows(job, workers))
            if len(reading) > self._batch_size + self._threads:
                yield from reading.popleft()
        while reading:
            yield from reading.popleft()

    def _job_windows(self, job: Job[T], workers: ThreadPoolExecutor) -> Iterator[Window[T]]:
        """The windows of one recording, of which the first are read at once and the next while those are used."""
        source = self._cut(job)
        part = workers.submit(self._read, job, source)

        def windows(part: Future[list[Window[T]]]) -> Iterator[Window[T]]:
            while found := part.result():
                if not found[-1].last:
                    part = workers.submit(self._read, job, source)
                yield from found
                if found[-1].last:
                    return

        return windows(part)

    def _cut(self, job: Job[T]) -> Iterator[Window[T]]:
        held: Window[T] | None = None
        for number, samples in enumerate(self._windows.cut(self._open(job.recording))):
            job.samples += len(samples) - (self._windows.overlap if number else 0)
            if held:
                yield held
            held = Window(job, number, samples, last=False)
        if held:
            held.last = True
            yield held

    def _batches(self, windows: Iterator[Window[T]]) -> Iterator[list[Window[T]]]:
        waiting: list[Window[T]] = []
        for window in windows:
            waiting.append(window)
            if len(waiting) >= BATCHES_WAITING * self._batch_size:
                yield self._take_alike(waiting)
        while waiting:
            yield self._take_alike(waiting)

    def _take_alike(self, waiting: list[Window[T]]) -> list[Window[T]]:
        """Take the oldest window, so that none waits for ever, and those whose lengths are nearest to its."""
        oldest = len(waiting[0].samples)
        batch: list[Window[T]] = []
        longest = 0
        for window in sorted(waiting, key=lambda window: abs(len(window.samples) - oldest)):
            if not self._padding and len(window.samples) != oldest:
                break
            longest = max(longest, len(window.samples))
            if len(batch) == self._batch_size or (batch and longest * (len(batch) + 1) > self._batch_samples):
                break
            batch.append(window)
        for window in batch:
            waiting.remove(window)
        return batch

    # --- tasks on worker threads -------------------------------------------------------------------------------------

    def _read(self, job: Job[T], source: Iterator[Window[T]]) -> list[Window[T]]:
        """The next windows of a recording; none where it failed."""
        found: list[Window[T]] = []
        with self._timed("read"):
            try:
                for window in source:
                    found.append(window)
                    if len(found) == READ_WINDOWS:
                        break
            except BaseException as error:
                job.fail(error)
                return []
        return found

    def _infer(self, batch: list[Window[T]], workers: ThreadPoolExecutor) -> None:
        """Run a batch through the engine; what is whole then goes to the decoder."""
        try:
            with self._timed("inference"):
                results = self._engine.log_probs(*pad([window.samples for window in batch]))
        except BaseException as error:
            for window in batch:
                window.job.fail(error)
            return
        for window, log_probs in zip(batch, results, strict=True):
            if self._is_whole(window, log_probs):
                workers.submit(self._decode, window.job)

    def _is_whole(self, window: Window[T], log_probs: LogProbs) -> bool:
        """Keep a window's result; true when it was the recording's last missing one."""
        job = window.job
        with self._lock:
            job.log_probs[window.number] = log_probs
            if window.last:
                job.windows = window.number + 1
            return len(job.log_probs) == job.windows

    def _decode(self, job: Job[T]) -> None:
        try:
            with self._timed("decode"):
                log_probs = self._windows.stitch([job.log_probs[number] for number in sorted(job.log_probs)])
                hypotheses = self._decoder.decode(log_probs)
        except BaseException as error:
            job.fail(error)
            return
        finally:
            job.log_probs.clear()
        job.outcome.set_result(hypotheses)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = perf_counter()
        yield
        with self._lock:
            setattr(self.seconds, stage, getattr(self.seconds, stage) + perf_counter() - begin)
