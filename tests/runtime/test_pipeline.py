"""The pipeline: order, alike lengths, long recordings, and errors that stay with their recording."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_runtime.errors import AudioError, EngineError
from asr_runtime.greedy import GreedyDecoder, GreedyStream
from asr_runtime.pipeline import Pipeline
from asr_runtime.segments import Segment
from asr_runtime.windows import Windows

TOKENS = ("a", "b", "c", "")
WINDOWS = Windows(length=40, overlap=10, frame=1)


class ThresholdEngine:
    """One token a sample, by its size; notes the batches that it gets and fails on samples above 0.9."""

    device = description = "threshold"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        self.batches.append(lengths.tolist())
        if waveforms.max(initial=0) > 0.9:
            raise EngineError("too loud")
        levels = np.float32([0.1, 0.2, 0.3, 0.0])
        return [-100 * np.abs(row[:length, None] - levels) for row, length in zip(waveforms, lengths, strict=True)]


def pipeline(
    engine: ThresholdEngine,
    open_recording: Callable[[NDArray[np.float32]], Iterator[NDArray[np.float32]]] = lambda samples: iter([samples]),
    **options: object,
) -> Pipeline[NDArray[np.float32]]:
    settings = {"batch_size": 3, "batch_samples": 100, "threads": 2, **options}
    return Pipeline(open_recording, engine, GreedyDecoder(TOKENS), WINDOWS, **settings)


def signal(text: str) -> NDArray[np.float32]:
    """Each letter as one sample, with a silent one behind it."""
    return np.float32([level for letter in text for level in ("_abc".index(letter) / 10, 0)])


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=120), max_size=20),
    batch_size=st.integers(1, 5),
    threads=st.integers(1, 3),
)
def test_every_recording_comes_back_in_order(texts: list[str], batch_size: int, threads: int) -> None:
    engine = ThresholdEngine()
    jobs = list(pipeline(engine, batch_size=batch_size, threads=threads).run(map(signal, texts)))
    assert [job.outcome.result()[0].text for job in jobs] == texts
    assert [job.samples for job in jobs] == [2 * len(text) for text in texts]
    assert all(len(batch) <= batch_size and len(batch) * max(batch) <= 100 for batch in engine.batches)


def test_lengths_that_are_alike_go_together() -> None:
    engine = ThresholdEngine()
    short, long = signal("ab"), signal("abcabcabcabc")
    list(pipeline(engine, threads=1, batch_size=2).run([short, long, short, long]))
    assert engine.batches == [[4, 4], [24, 24]]


@given(st.lists(st.integers(1, 6), max_size=20), st.integers(1, 4))
def test_a_model_that_takes_no_padding_gets_lengths_of_one_kind_only(letters: list[int], batch_size: int) -> None:
    engine = ThresholdEngine()
    texts = ["abcabc"[:count] for count in letters]
    jobs = list(pipeline(engine, batch_size=batch_size, padding=False).run(map(signal, texts)))
    assert [job.outcome.result()[0].text for job in jobs] == texts
    assert all(len(set(batch)) == 1 for batch in engine.batches)


def test_equal_lengths_go_together_without_padding() -> None:
    engine = ThresholdEngine()
    short, longer = signal("ab"), signal("abc")
    list(pipeline(engine, threads=1, batch_size=2, padding=False).run([short, longer, short, longer]))
    assert engine.batches == [[4, 4], [6, 6]]


class Parts:
    """Hears segments where somebody speaks: what is not 0.5."""

    def segments(self, blocks: Iterator[NDArray[np.float32]], timed: Callable[[float], None]) -> Iterator[Segment]:
        samples = np.concatenate(list(blocks))
        edges = np.flatnonzero(np.diff(samples != 0.5, prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2):
            yield Segment(int(begin), iter([samples[begin:end]]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text("abc", min_size=1, max_size=60), max_size=5), max_size=8), st.integers(1, 3))
def test_segments_are_decoded_alone_and_put_together(recordings: list[list[str]], threads: int) -> None:
    quiet = np.full(30, 0.5, np.float32)
    samples = [
        np.concatenate([quiet, *(part for text in texts for part in (signal(text), quiet))]) for texts in recordings
    ]
    jobs = list(pipeline(ThresholdEngine(), threads=threads, voice=Parts()).run(samples))
    assert [job.samples for job in jobs] == [len(each) for each in samples]
    for job, texts in zip(jobs, recordings, strict=True):
        (found,) = job.outcome.result()
        assert found.text == " ".join(texts)
        ends = np.cumsum([30 + 2 * len(text) for text in texts])
        assert [word.start for word in found.words] == [
            end - 2 * len(text) for end, text in zip(ends, texts, strict=True)
        ]


def test_an_error_stays_with_its_recording() -> None:
    def broken_in_the_middle(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        yield samples
        if len(samples) == 2:
            raise AudioError("breaks off")

    good, bad = signal("cab" * 30), signal("a")
    jobs = list(pipeline(ThresholdEngine(), broken_in_the_middle).run([good, bad, good]))
    assert jobs[0].outcome.result()[0].text == jobs[2].outcome.result()[0].text == "cab" * 30
    with pytest.raises(AudioError, match="breaks off"):
        jobs[1].outcome.result()


def test_an_engine_that_fails_fails_its_batch_and_nothing_hangs() -> None:
    loud = np.full(20, 0.95, np.float32)
    jobs = list(pipeline(ThresholdEngine(), batch_size=1).run([signal("ab"), loud, signal("ba")]))
    assert [job.outcome.exception() is None for job in jobs] == [True, False, True]
    with pytest.raises(EngineError, match="too loud"):
        jobs[1].outcome.result()


def test_a_mistake_in_the_program_is_not_swallowed() -> None:
    def mistaken(_: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        raise ZeroDivisionError

    (job,) = pipeline(ThresholdEngine(), mistaken).run([signal("a")])
    with pytest.raises(ZeroDivisionError):
        job.outcome.result()


def test_the_stages_are_timed() -> None:
    line = pipeline(ThresholdEngine())
    list(line.run([signal("abc")]))
    assert min(line.seconds.read, line.seconds.inference, line.seconds.decode) > 0


def test_a_recording_that_keeps_waiting_does_not_hold_back_those_before_it() -> None:
    opened = threading.Event()

    def slow(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        if len(samples) == 2:
            assert opened.wait(30)
        yield samples

    jobs = pipeline(ThresholdEngine(), slow).run([signal("ab"), signal("ba"), signal("c")])
    assert [next(jobs).outcome.result()[0].text for _ in range(2)] == ["ab", "ba"]
    opened.set()
    assert [job.outcome.result()[0].text for job in jobs] == ["c"]


def test_log_probabilities_of_a_long_recording_are_decoded_as_they_come() -> None:
    """No more frames wait for the decoder than the workers have in their hands."""
    text = "abc" * 2000
    held = most = 0

    class Counting(ThresholdEngine):
        def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
            nonlocal held, most
            held += int(lengths.sum())
            most = max(most, held)
            return super().log_probs(waveforms, lengths)

    class Fed(GreedyStream):
        def feed(self, log_probs: NDArray[np.float32]) -> None:
            nonlocal held
            held -= len(log_probs) * WINDOWS.length // (WINDOWS.length - WINDOWS.overlap)
            super().feed(log_probs)

    class Decoder(GreedyDecoder):
        def stream(self) -> Fed:
            return Fed(self._hypothesis)

    line = Pipeline(
        lambda samples: iter([samples]),
        Counting(),
        Decoder(TOKENS),
        WINDOWS,
        batch_size=1,
        batch_samples=100,
        threads=2,
    )
    (job,) = line.run([signal(text)])
    assert job.outcome.result()[0].text == text
    assert most < 20 * WINDOWS.length
