"""From recordings to text: audio -> engine -> decoder -> Transcript."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from asr_runtime import engines
from asr_runtime.audio import AudioSource, Samples, array_audio, audio_blocks
from asr_runtime.bundle import Bundle
from asr_runtime.decoder import (
    BeamConfig,
    BeamSearchDecoder,
    Hypothesis,
    WithHotWords,
    check_settings,
    scorer_weights,
)
from asr_runtime.engines import Engine
from asr_runtime.errors import AsrError, BundleError, DecoderError, EngineError
from asr_runtime.greedy import GreedyDecoder
from asr_runtime.lexicon import has_pronunciations
from asr_runtime.pipeline import Decoder, Pipeline, Seconds
from asr_runtime.raw import RawAudio
from asr_runtime.transcript import Alternative, Transcript, Word, mean_confidence, split_at_pauses
from asr_runtime.voice import VoiceActivity
from asr_runtime.windows import WHOLE_SECONDS, WINDOW_SECONDS, Windows

# A file, its bytes or an open stream, or samples with their rate in hertz.
Recording: TypeAlias = "AudioSource | RawAudio | tuple[ArrayLike, int]"
HotWords: TypeAlias = Mapping[str, float]  # a word or phrase -> its boost, a natural logarithm

BUNDLES = Path(__file__).parent / "bundles"  # those that come along
DEFAULT = "english"
ENGLISH = BUNDLES / DEFAULT
BATCH_SECONDS = 120.0  # about 1 MB of memory for each
SHORTEST_WINDOW, LONGEST_WINDOW = 5.0, 3600.0  # seconds; the overlap is 2 s, and attention's memory grows by squares


def load(
    path: str | os.PathLike[str] | None = None,
    device: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    batch_seconds: float = BATCH_SECONDS,
    window_seconds: float = WINDOW_SECONDS,
    greedy: bool = False,
    language_model: bool | str | os.PathLike[str] = True,
    vad: bool = False,
    **beam: Any,
) -> Recognizer:
    """A recognizer for the bundle at `path`, or the one that comes along by that name (by default `english`), on
    `device`.

    `threads`, by default the cores that this process may use, work side by side; up to `batch_size` windows
    of audio, by default as many as suit the engine, go through the model together, of no more than `batch_seconds` with
    their padding. Recordings longer than 20 s, or than one window, are cut into windows of `window_seconds`, 5 to 3600.
    `greedy` takes the best path instead of a beam search; `language_model` False leaves the bundle's out, a path takes
    another. `vad` hears only where Silero's model says that somebody speaks, so that silence and noise give no words
    (extra `vad`). What else is given replaces settings of the beam search: the fields of `BeamConfig`, like
    `beam_size=200`. Raises BundleError, EngineError or DecoderError.
    """
    if greedy and beam:
        raise DecoderError(f"greedy decoding has no setting {min(beam)!r}; leave it out, or greedy.")
    bundle = Bundle.load(place(path))
    with ThreadPoolExecutor(1) as beside:  # each takes as long as a short recording
        decoder = beside.submit(decoder_for, bundle, greedy=greedy, language_model=language_model, **beam)
        engine = engines.choose(bundle, device, precision=precision)
    return Recognizer(
        bundle,
        engine,
        decoder.result(),
        batch_size=batch_size or engine.batch_size,
        batch_seconds=batch_seconds,
        threads=threads or engines.usable_cores(),
        window_seconds=window_seconds,
        voice=VoiceActivity(bundle) if vad else None,
    )


def place(path: str | os.PathLike[str] | None) -> Path:
    """Where the bundle of a path lies; what is not there may be the name of one that comes along.

    None is the one that comes along by the name of `DEFAULT`, whatever lies in the folder at hand.
    """
    packaged = BUNDLES / (path or DEFAULT)
    if path is not None and (Path(path).exists() or Path(path).name != str(path)):
        return Path(path)
    if not packaged.is_dir():
        names = sorted(folder.name for folder in BUNDLES.iterdir() if folder.is_dir()) if BUNDLES.is_dir() else []
        known = ", ".join(names) or "none"
        raise BundleError(f"{packaged.name}: there is no such bundle; give its path, or one that comes along: {known}.")
    return packaged


def decoder_for(
    bundle: Bundle, *, greedy: bool = False, language_model: bool | str | os.PathLike[str] = True, **beam: Any
) -> GreedyDecoder | BeamSearchDecoder:
    """The decoder that `load` takes for these arguments; greedy, `beam` is left aside."""
    return best_path(bundle) if greedy else beam_search(bundle, language_model, beam)


def is_pronounced(bundle: Bundle) -> bool:
    """Whether the bundle's tokens say how words sound, and its lexicon which words those are."""
    lexicon = bundle.find("lexicon")
    return lexicon is not None and has_pronunciations(bundle.path(lexicon))


def best_path(bundle: Bundle) -> GreedyDecoder:
    """The bundle's best path; of tokens that are pronunciations, each word with hyphens between its tokens."""
    return GreedyDecoder(bundle.tokens, blank=bundle.blank, joint="-" if is_pronounced(bundle) else "")


def beam_search(
    bundle: Bundle, language_model: bool | str | os.PathLike[str], changes: Mapping[str, Any]
) -> BeamSearchDecoder:
    """The bundle's beam search with `changes` to its settings, and its own, another or no language model.

    A list of words goes with the bundle's own language model, pronunciations with every one, and without.
    """
    check_settings({*bundle.decoder, *changes})
    settings: dict[str, Any] = {**bundle.decoder}
    own = {role: bundle.path(file) for role in ("language_model", "lexicon") if (file := bundle.find(role))}
    if language_model is not True:
        own = {role: path for role, path in own.items() if role == "lexicon" and has_pronunciations(path)}
        if language_model:
            own["language_model"] = Path(language_model)
            if weights := scorer_weights(language_model):
                settings["alpha"], settings["beta"] = weights  # a .scorer package brings its own
    settings |= changes
    if "language_model" not in own and "alpha" in changes:
        raise DecoderError("there is no language model for alpha to weigh; leave alpha out, or give a language model.")
    if "language_model" not in own and "beta" not in changes:
        settings["beta"] = 0.0  # the bonus per word pays for the language model's price of words
    return BeamSearchDecoder(bundle.tokens, blank=bundle.blank, config=BeamConfig(**settings), **own)


class Recognizer:
    """Turns recordings into transcripts; made by `load`. Several threads may use one at the same time."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        decoder: Decoder,
        *,
        batch_size: int = 1,
        batch_seconds: float = BATCH_SECONDS,
        threads: int = 1,
        window_seconds: float = WINDOW_SECONDS,
        voice: VoiceActivity | None = None,
    ) -> None:
        if not SHORTEST_WINDOW <= window_seconds <= LONGEST_WINDOW:
            raise EngineError(
                f"got windows of {window_seconds:g} seconds; give {SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g}."
            )
        self.bundle, self.engine, self.threads, self._decoder = bundle, engine, threads, decoder
        self._pipeline: Pipeline[Recording] = Pipeline(
            self._open,
            engine,
            decoder,
            Windows.of(bundle.frame_seconds, bundle.sample_rate, window_seconds, whole=WHOLE_SECONDS),
            batch_size=batch_size,
            batch_samples=round(batch_seconds * bundle.sample_rate),
            threads=threads,
            padding=bundle.padding,
            voice=voice,
        )

    def __repr__(self) -> str:
        where = f"{self.engine.device} ({self.engine.description}), {self.threads} thread{'s' * (self.threads > 1)}"
        return f"<Recognizer {self.bundle.name}: {where}, {self._decoder!r}>"

    @property
    def seconds(self) -> Seconds:
        """Seconds of audio so far, and the seconds that threads spent in each stage."""
        return self._pipeline.seconds

    @property
    def heard(self) -> float:
        """Seconds of audio that went through the model so far, also of recordings that are not done."""
        return self._pipeline.samples / self.bundle.sample_rate

    @overload
    def transcribe(  # type: ignore[overload-overlap]
        self, audio: AudioSource | RawAudio, *, hot_words: HotWords | None = None
    ) -> Transcript: ...
    @overload
    def transcribe(self, audio: ArrayLike, sample_rate: int, *, hot_words: HotWords | None = None) -> Transcript: ...
    @overload
    def transcribe(self, audio: Iterable[Recording], *, hot_words: HotWords | None = None) -> Iterator[Transcript]: ...

    def transcribe(
        self, audio: Any, sample_rate: int | None = None, *, hot_words: HotWords | None = None
    ) -> Transcript | Iterator[Transcript]:
        """The transcript of a file (path, bytes, binary stream or `RawAudio`) or of samples at `sample_rate` hertz.

        Of an iterable of files or of pairs (samples, rate) an iterator of transcripts, which reads some
        batches ahead. `hot_words`, words or phrases with a boost each, take the place of those given to `load`. Raises
        AudioError, EngineError or DecoderError.
        """
        if sample_rate is not None:
            return next(_all_or_raise(self.results([(audio, sample_rate)], hot_words=hot_words)))
        if isinstance(audio, str | os.PathLike | bytes | RawAudio) or hasattr(audio, "read"):
            return next(_all_or_raise(self.results([audio], hot_words=hot_words)))
        if isinstance(audio, np.ndarray):
            raise TypeError("samples need their rate: transcribe(samples, sample_rate)")
        if not isinstance(audio, Iterable):
            raise TypeError(f"got {audio!r:.80}, wanted a path, samples with their rate, or an iterable of recordings")
        return _all_or_raise(self.results(audio, hot_words=hot_words))

    def results(
        self, recordings: Iterable[Recording], *, hot_words: HotWords | None = None
    ) -> Iterator[Transcript | AsrError]:
        """For each recording, in order, its transcript, or the error that this one recording gave.

        `hot_words` as in `transcribe`; raises DecoderError at once where they cannot be used.
        """
        return self._results(recordings, None if hot_words is None else self._expecting(hot_words))

    def _expecting(self, hot_words: HotWords) -> Decoder:
        if not isinstance(self._decoder, BeamSearchDecoder):
            raise DecoderError("the best path has no hot words; load without greedy=True, or leave them out.")
        return WithHotWords(self._decoder, hot_words)

    def _results(self, recordings: Iterable[Recording], decoder: Decoder | None) -> Iterator[Transcript | AsrError]:
        for job in self._pipeline.run(recordings, decoder):
            try:
                hypotheses = job.outcome.result()
            except AsrError as error:
                yield error
            else:
                yield self._transcript(_name(job.recording), job.samples, hypotheses)

    def _open(self, recording: Recording) -> Iterator[Samples]:
        if isinstance(recording, tuple):
            return iter([array_audio(*recording, self.bundle.sample_rate)])
        return audio_blocks(recording, self.bundle.sample_rate, partial(self.seconds.add, "resample"))

    def _transcript(self, name: str, samples: int, hypotheses: Sequence[Hypothesis]) -> Transcript:
        duration = samples / self.bundle.sample_rate
        self.seconds.add("audio", duration)
        words = self._words(hypotheses[0], duration)
        return Transcript(
            audio=name,
            duration=round(duration, 3),
            text=hypotheses[0].text,
            confidence=mean_confidence(words),
            words=words,
            segments=tuple(split_at_pauses(words)),
            model=self.bundle.name,
            device=self.engine.device,
            language=self.bundle.language,
            alternatives=tuple(map(_alternative, hypotheses)) if len(hypotheses) > 1 else (),
        )

    def _words(self, best: Hypothesis, duration: float) -> tuple[Word, ...]:
        """Words with their times rounded to the millisecond; the last frame may reach a little beyond the audio."""

        def seconds(frame: int) -> float:
            return round(min(frame * self.bundle.frame_seconds, duration), 3)

        return tuple(
            Word(sys.intern(word.text), seconds(word.start), seconds(word.end), word.confidence) for word in best.words
        )


def _all_or_raise(results: Iterator[Transcript | AsrError]) -> Iterator[Transcript]:
    for result in results:
        if isinstance(result, AsrError):
            raise result
        yield result


def _alternative(hypothesis: Hypothesis) -> Alternative:
    return Alternative(hypothesis.text, hypothesis.score, mean_confidence(hypothesis.words))


def _name(recording: Recording) -> str:
    if isinstance(recording, tuple):
        return "array"
    if isinstance(recording, RawAudio):
        return _name(recording.source)
    return str(recording) if isinstance(recording, str | os.PathLike) else str(getattr(recording, "name", "bytes"))
