"""From recordings to text: audio -> engine -> decoder -> Transcript."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr_runtime import engines
from asr_runtime.audio import AudioSource, Samples, array_audio, read_audio
from asr_runtime.bundle import Bundle
from asr_runtime.engines import Engine
from asr_runtime.errors import AsrError, BundleError
from asr_runtime.greedy import GreedyDecoder, Hypothesis
from asr_runtime.transcript import Transcript, Word, mean_confidence, split_at_pauses

# A file, its bytes or an open stream, or samples with their rate in hertz.
Recording: TypeAlias = "AudioSource | tuple[ArrayLike, int]"

ENGLISH = Path(__file__).parent / "bundles" / "english"
BATCH_SIZE = 8


class Decoder(Protocol):
    """Turns log-probabilities [frames, tokens] into hypotheses, the best first."""

    def decode_batch(self, arrays: Sequence[NDArray[np.float32]], threads: int = 1) -> list[list[Hypothesis]]:
        """The hypotheses of each array."""


@dataclass
class Seconds:
    """Seconds of audio, and wall seconds of each stage, since the recognizer was made."""

    audio: float = 0.0
    read: float = 0.0
    inference: float = 0.0
    decode: float = 0.0


def load(
    path: str | os.PathLike[str] | None = None,
    device: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
    batch_size: int = BATCH_SIZE,
    greedy: bool = False,
    language_model: bool | str | os.PathLike[str] = True,
    **beam: Any,
) -> Recognizer:
    """A recognizer for the bundle at `path` (by default the English one of this package) on `device`.

    `threads` is by default the cores that this process may use; `batch_size` recordings go through the model together.
    `greedy` takes the best path instead of a beam search; `language_model` False leaves the bundle's out, a path takes
    another. What else is given replaces settings of the beam search: the fields of `BeamConfig`, like `beam_size=200`.
    Raises BundleError, EngineError or DecoderError.
    """
    if path is None and not ENGLISH.is_dir():
        raise BundleError("this installation has no English bundle; give the path of a bundle.")
    bundle = Bundle.load(ENGLISH if path is None else path)
    engine = engines.choose(bundle, device, precision=precision, threads=threads)
    decoder = GreedyDecoder(bundle.tokens, blank=bundle.blank)
    return Recognizer(bundle, engine, decoder, batch_size=batch_size, threads=threads or engines.usable_cores())


class Recognizer:
    """Turns recordings into transcripts; made by `load`. Several threads may use one at the same time."""

    def __init__(
        self, bundle: Bundle, engine: Engine, decoder: Decoder, *, batch_size: int = BATCH_SIZE, threads: int = 1
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.decoder = decoder
        self.seconds = Seconds()
        self._batch_size = batch_size
        self._threads = threads

    @overload
    def transcribe(self, audio: AudioSource) -> Transcript: ...  # type: ignore[overload-overlap]
    @overload
    def transcribe(self, audio: ArrayLike, sample_rate: int) -> Transcript: ...
    @overload
    def transcribe(self, audio: Iterable[Recording]) -> Iterator[Transcript]: ...

    def transcribe(self, audio: Any, sample_rate: int | None = None) -> Transcript | Iterator[Transcript]:
        """The transcript of a file (path, bytes or binary stream) or of samples at `sample_rate` hertz.

        Of an iterable of files or of pairs (samples, rate) an iterator of transcripts, which reads `batch_size`
        recordings at a time. Raises AudioError, EngineError or DecoderError.
        """
        if sample_rate is not None:
            return next(self._all_or_raise([(audio, sample_rate)]))
        if isinstance(audio, str | os.PathLike | bytes) or hasattr(audio, "read"):
            return next(self._all_or_raise([audio]))
        if isinstance(audio, np.ndarray):
            raise TypeError("samples need their rate: transcribe(samples, sample_rate)")
        return self._all_or_raise(audio)

    def _all_or_raise(self, recordings: Iterable[Recording]) -> Iterator[Transcript]:
        for result in self.results(recordings):
            if isinstance(result, AsrError):
                raise result
            yield result

    def results(self, recordings: Iterable[Recording]) -> Iterator[Transcript | AsrError]:
        """For each recording, in order, its transcript, or the error that this one recording gave."""
        waiting = iter(recordings)
        while batch := list(islice(waiting, self._batch_size)):
            yield from self._batch(batch)

    def _batch(self, recordings: list[Recording]) -> list[Transcript | AsrError]:
        begin = perf_counter()
        heard = [self._read(recording) for recording in recordings]
        self.seconds.read += perf_counter() - begin
        waveforms = [samples for samples in heard if not isinstance(samples, AsrError)]
        try:
            best = iter(self._recognize(waveforms))
        except AsrError as error:
            return [samples if isinstance(samples, AsrError) else error for samples in heard]
        return [
            samples if isinstance(samples, AsrError) else self._transcript(_name(recording), len(samples), next(best))
            for recording, samples in zip(recordings, heard, strict=True)
        ]

    def _recognize(self, waveforms: list[Samples]) -> list[Hypothesis]:
        """The best hypothesis of each."""
        if not waveforms:
            return []
        begin = perf_counter()
        log_probs = self.engine.log_probs(*engines.pad(waveforms))
        inferred = perf_counter()
        hypotheses = self.decoder.decode_batch(log_probs, threads=self._threads)
        self.seconds.inference += inferred - begin
        self.seconds.decode += perf_counter() - inferred
        return [n_best[0] for n_best in hypotheses]

    def _read(self, recording: Recording) -> Samples | AsrError:
        try:
            if isinstance(recording, tuple):
                return array_audio(*recording, self.bundle.sample_rate)
            return read_audio(recording, self.bundle.sample_rate)
        except AsrError as error:
            return error

    def _transcript(self, name: str, samples: int, best: Hypothesis) -> Transcript:
        duration = samples / self.bundle.sample_rate
        self.seconds.audio += duration
        step = self.bundle.frame_seconds
        # The last frame may reach a little beyond the audio.
        words = tuple(
            Word(word.text, min(word.start * step, duration), min(word.end * step, duration), word.confidence)
            for word in best.words
        )
        return Transcript(
            audio=name,
            duration=duration,
            text=best.text,
            confidence=mean_confidence(words),
            words=words,
            segments=tuple(split_at_pauses(words)),
            model=self.bundle.name,
            device=self.engine.device,
        )


def _name(recording: Recording) -> str:
    if isinstance(recording, tuple):
        return "array"
    return str(recording) if isinstance(recording, str | os.PathLike) else str(getattr(recording, "name", "bytes"))
