"""Many recordings at once: reading, inference and decoding overlap on worker threads; results come in input order.

A worker's task is one of two: read some windows of a recording, or run a batch of windows of like length through the
engine and feed what came out, stitched, to the decoders of their recordings. So a recording's log-probabilities are
never held whole. All that takes long releases Python's lock. The caller's thread hands out the tasks and never has more
of them under way than keep the workers busy.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from asr_runtime.audio import Samples
from asr_runtime.decoder import Hypothesis
from asr_runtime.engines import Engine, pad
from asr_runtime.segments import Segment, joined
from asr_runtime.voice import VoiceActivity
from asr_runtime.windows import LogProbs, Stitcher, Windows

T = TypeVar("T")

READ_WINDOWS = 4  # that one task reads of a recording before others get their turn
PATIENCE = 0.5  # seconds for which a batch waits for more windows to be read
BATCHES_WAITING = 3  # worth of windows from which one batch of like length is chosen


class Stream(Protocol):
    """One recording's log-probabilities on their way to hypotheses."""

    def feed(self, log_probs: LogProbs) -> None:
        """The next frames, [frames, tokens]."""

    def finish(self) -> list[Hypothesis]:
        """The hypotheses for all frames, the best first."""


class Decoder(Protocol):
    """Turns log-probabilities into hypotheses."""

    def stream(self) -> Stream:
        """For one recording."""


@dataclass
class Seconds:
    """Seconds of audio, and the seconds that threads spent in each stage; `read` has `resample` and `voice` in it."""

    audio: float = 0.0
    read: float = 0.0
    resample: float = 0.0
    voice: float = 0.0
    inference: float = 0.0
    decode: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, stage: str, seconds: float) -> None:
        """More of one of them; several threads may add."""
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)


@dataclass(eq=False)
class Job(Generic[T]):
    """A recording on its way; `outcome` becomes its hypotheses or its error, `samples` counts what was read."""

    recording: T
    decoder: Decoder
    samples: int = 0
    outcome: Future[list[Hypothesis]] = field(default_factory=Future)
    _parts: dict[int, list[Hypothesis]] = field(default_factory=dict)  # by the frame where they begin
    _expected: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, error: BaseException) -> None:
        """Let the recording end with its first error."""
        with suppress(InvalidStateError):  # it has ended
            self.outcome.set_exception(error)

    def heard(self, begin: int, hypotheses: list[Hypothesis]) -> None:
        """Take those of the segment that begins at frame `begin`; with the last one the recording ends well."""
        with self._lock:
            self._parts[begin] = hypotheses
        self._end_if_whole()

    def read(self, segments: int) -> None:
        """There are so many segments."""
        with self._lock:
            self._expected = segments
        self._end_if_whole()

    def _end_if_whole(self) -> None:
        with self._lock:
            if len(self._parts) != self._expected:
                return
        whole = self._parts.get(0) if self._expected == 1 else None
        with suppress(InvalidStateError):  # it has failed
            self.outcome.set_result(joined(sorted(self._parts.items())) if whole is None else whole)


class Decoding:
    """Takes the log-probabilities of one segment's windows in any order and decodes them in theirs."""

    def __init__(self, windows: Windows, decoder: Decoder, begin: int) -> None:
        self.begin = begin  # a frame of the recording
        self._stitcher, self._stream = Stitcher(windows), decoder.stream()
        self._waiting: dict[int, tuple[LogProbs, bool]] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, log_probs: LogProbs, last: bool) -> list[Hypothesis] | None:
        """Those of window `number`; the hypotheses when it was the last one missing.

        Who comes while another decodes waits, so that what is not decoded does not grow.
        """
        with self._lock:
            self._waiting[number] = log_probs, last
            while self._next in self._waiting:
                part, last = self._waiting.pop(self._next)
                self._next += 1
                self._stream.feed(self._stitcher.add(part))
                if last:
                    self._stream.feed(self._stitcher.rest())
                    hypotheses = self._stream.finish()
                    del self._stream, self._stitcher  # windows may outlive it, and the search of ten hours is 50 MB
                    return hypotheses
        return None


@dataclass(eq=False)
class Window(Generic[T]):
    """Window `number` of a segment of a recording."""

    job: Job[T]
    decoding: Decoding
    number: int
    samples: Samples
    last: bool


class Pipeline(Generic[T]):
    """Runs recordings through an engine and a decoder on `threads` threads.

    Up to `batch_size` windows go through the engine together, of at most `batch_samples` with their padding; without
    `padding` only windows of one length do. With `voice` a recording is the segments in which somebody speaks.
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
        voice: VoiceActivity | None = None,
    ) -> None:
        self.seconds = Seconds()
        self.samples = 0  # that are through
        self._open, self._engine, self._decoder, self._windows = open_recording, engine, decoder, windows
        self._batch_size, self._batch_samples, self._threads = batch_size, batch_samples, threads
        self._padding, self._voice, self._lock = padding, voice, threading.Lock()

    def run(self, recordings: Iterable[T], decoder: Decoder | None = None) -> Iterator[Job[T]]:
        """The jobs, each with its outcome, in the order of `recordings`, which are taken as they are needed.

        `decoder` takes the pipeline's place for these.
        """
        workers = ThreadPoolExecutor(self._threads, thread_name_prefix="asr")
        jobs: deque[Job[T]] = deque()
        under_way: deque[Future[None]] = deque()
        try:
            begun = (Job(recording, decoder or self._decoder) for recording in recordings)
            for batch in self._batches(self._read_ahead(begun, jobs, workers)):
                if batch:
                    under_way.append(workers.submit(self._infer, batch))
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
        self, begun: Iterable[Job[T]], jobs: deque[Job[T]], workers: ThreadPoolExecutor
    ) -> Iterator[Window[T] | None]:
        """The windows of all recordings in order; those of the next recordings are being read meanwhile."""
        reading: deque[Iterator[Window[T] | None]] = deque()
        for job in begun:
            jobs.append(job)
            reading.append(self._job_windows(job, workers))
            if len(reading) > self._batch_size + self._threads:
                yield from reading.popleft()
        while reading:
            yield from reading.popleft()

    def _job_windows(self, job: Job[T], workers: ThreadPoolExecutor) -> Iterator[Window[T] | None]:
        """The windows of one recording, of which the first are read at once and the next while those are used.

        None stands for one that keeps us waiting: it may come from a pipe.
        """
        source = self._cut(job)
        part = workers.submit(self._read, job, source)

        def windows(part: Future[list[Window[T]]]) -> Iterator[Window[T] | None]:
            while True:
                while not wait([part], PATIENCE).done:
                    yield None
                found = part.result()
                if len(found) == READ_WINDOWS:
                    part = workers.submit(self._read, job, source)
                yield from found
                if len(found) < READ_WINDOWS:
                    return

        return windows(part)

    def _cut(self, job: Job[T]) -> Iterator[Window[T]]:
        count = 0
        for count, segment in enumerate(self._segments(job), 1):  # noqa: B007 (used behind the loop)
            held: Window[T] | None = None
            decoding = Decoding(self._windows, job.decoder, segment.begin)
            for number, samples in enumerate(self._windows.cut(segment.blocks)):
                if held:
                    yield held
                held = Window(job, decoding, number, samples, last=False)
            if held:
                held.last = True
                yield held
        if not count:  # nobody speaks
            job.heard(0, job.decoder.stream().finish())
        job.read(count or 1)

    def _segments(self, job: Job[T]) -> Iterator[Segment]:
        blocks = self._counted(job)
        return (
            self._voice.segments(blocks, partial(self.seconds.add, "voice"))
            if self._voice
            else iter([Segment(0, blocks)])
        )

    def _counted(self, job: Job[T]) -> Iterator[Samples]:
        for block in self._open(job.recording):
            job.samples += len(block)
            yield block

    def _batches(self, windows: Iterator[Window[T] | None]) -> Iterator[list[Window[T]]]:
        """Batches of like length; where reading keeps us waiting, of what there is, and empty ones behind that."""
        waiting: list[Window[T]] = []
        for window in windows:
            if window:
                waiting.append(window)
            if len(waiting) >= BATCHES_WAITING * self._batch_size or not window:
                yield self._take_alike(waiting) if waiting else []
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
        if job.outcome.done():  # it failed
            return found
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

    def _infer(self, batch: list[Window[T]]) -> None:
        """Run a batch through the engine, and each window's result through the decoder of its recording."""
        try:
            with self._timed("inference"):
                results = self._engine.log_probs(*pad([window.samples for window in batch]))
        except BaseException as error:
            for window in batch:
                window.job.fail(error)
            return
        for window, log_probs in zip(batch, results, strict=True):
            self._decode(window, log_probs)

    def _decode(self, window: Window[T], log_probs: LogProbs) -> None:
        job = window.job
        try:
            with self._timed("decode"):
                hypotheses = window.decoding.add(window.number, log_probs, window.last)
        except BaseException as error:
            job.fail(error)
            return
        with self._lock:
            self.samples += len(window.samples) - (self._windows.overlap if window.number else 0)
        if hypotheses is not None:
            job.heard(window.decoding.begin, hypotheses)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = perf_counter()
        yield
        self.seconds.add(stage, perf_counter() - begin)
