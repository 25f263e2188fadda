"""Long audio: overlapping windows in, stitched log-probabilities out, so that memory does not grow with a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr_runtime.audio import Samples
from asr_runtime.errors import BundleError

LogProbs: TypeAlias = NDArray[np.float32]

# Models hear utterances of up to some 17 s in training and get worse on much longer ones. What is a little longer goes
# through whole; windows of 10 s had the fewest errors of those tried, 10 to 30 s and the whole (docs/runtime.md).
WHOLE_SECONDS = 20.0
WINDOW_SECONDS = 10.0
OVERLAP_SECONDS = 2.0
AGREEMENT_FRAMES = 9  # over so many frames around a seam both windows should say the same


@dataclass(frozen=True)
class Windows:
    """Windows of `length` samples, each beginning `length - overlap` behind the one before; `frame` samples a frame.

    Both lengths are whole frames, so that the frames of all windows lie on one grid. A recording of at most `whole`
    samples is one window.
    """

    length: int
    overlap: int
    frame: int
    whole: int = 0

    @classmethod
    def of(
        cls,
        frame_seconds: float,
        sample_rate: int,
        seconds: float = WINDOW_SECONDS,
        overlap: float = OVERLAP_SECONDS,
        whole: float = 0.0,
    ) -> Windows:
        """Windows of about so many seconds for a model with such frames."""
        frame = round(frame_seconds * sample_rate)
        if abs(frame - frame_seconds * sample_rate) > 1e-3 or not frame:
            raise BundleError(
                f"a frame of {frame_seconds} s is no whole number of samples at {sample_rate} hertz; "
                "export the bundle again."
            )
        length, shared, most = (round(value / frame_seconds) * frame for value in (seconds, overlap, whole))
        return cls(length, shared, frame, most)

    def cut(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """The windows of a recording that comes in blocks; the last is shorter, but longer than the overlap."""
        held: list[Samples] = []
        count = 0
        most = max(self.whole, self.length)
        for block in blocks:
            held.append(block)
            count += len(block)
            if count <= most:
                continue
            most = self.length  # it is a long one
            samples = np.concatenate(held)
            while len(samples) > self.length:
                yield samples[: self.length]
                samples = samples[self.length - self.overlap :]
            held, count = [samples], len(samples)
        yield np.concatenate(held)

    def stitch(self, parts: Iterable[LogProbs]) -> LogProbs:
        """Log-probabilities [frames, tokens] of the whole from those of its windows, in order."""
        stitcher = Stitcher(self)
        return np.concatenate([*map(stitcher.add, parts), stitcher.rest()])


class Stitcher:
    """Joins the log-probabilities of one recording's windows as they come; it holds one window at most.

    Within each overlap, the seam lies where the two windows agree best: there neither has lost its context, and no
    token is cut in half or told twice.
    """

    def __init__(self, windows: Windows) -> None:
        self._overlap = windows.overlap // windows.frame
        self._hop = windows.length // windows.frame - self._overlap
        self._held: LogProbs | None = None
        self._begin = 0  # of what is left of it

    def add(self, part: LogProbs) -> LogProbs:
        """The frames before the seam with `part`, the next window's log-probabilities [frames, tokens]."""
        held, begin, seam = self._held, self._begin, 0
        if held is not None:
            seam = _seam(held[self._hop : self._hop + self._overlap], part[: self._overlap])
        self._held, self._begin = part, seam
        return part[:0] if held is None else held[begin : self._hop + seam]

    def rest(self) -> LogProbs:
        """The frames behind the last seam."""
        if self._held is None:
            raise ValueError("there was no window")
        return self._held[self._begin :]


def _seam(left: LogProbs, right: LogProbs) -> int:
    """The frame of an overlap, in its middle half, around which two windows' probabilities differ least."""
    frames = min(len(left), len(right))
    difference = np.abs(np.exp(left[:frames]) - np.exp(right[:frames])).sum(axis=1)
    around = np.convolve(difference, np.ones(AGREEMENT_FRAMES) / AGREEMENT_FRAMES, mode="same")
    middle = np.arange(frames // 4, max(frames - frames // 4, frames // 4 + 1))
    nearer = 1e-4 * np.abs(middle - frames / 2)  # of equals, the one in the middle
    return int(middle[np.argmin(around[middle] + nearer)])
