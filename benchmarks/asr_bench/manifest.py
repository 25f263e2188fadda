"""What the recordings of a manifest or LibriSpeech folder are, and what is said in them in one spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from asr_runtime.errors import AudioError
from asr_training.manifest import read_utterances

Normaliser = Callable[[str], str]


@dataclass(frozen=True)
class Utterance:
    """A recording, its normalised text, its name in the manifest, and its source ("" if the manifest has none)."""

    audio: Path
    text: str
    name: str
    source: str = ""


def normalise(text: str) -> str:
    """Lower case, typographic apostrophes made plain, and nothing but letters, digits, `'` and single spaces."""
    return " ".join(re.sub(r"[^\w' ]|_", " ", text.lower().replace("’", "'")).split())


def english_normaliser() -> Normaliser:
    """The standard one of English leaderboards: numbers as digits, contractions and British spelling undone.

    It is Whisper's (Radford et al. 2022, appendix C), from the package whisper-normalizer.
    """
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser: Normaliser = EnglishTextNormalizer()
    return normaliser


NORMALISERS: dict[str, Callable[[], Normaliser]] = {"plain": lambda: normalise, "english": english_normaliser}


def read_manifest(path: Path, normaliser: Normaliser = normalise) -> list[Utterance]:
    """The utterances of a manifest or LibriSpeech folder; raises RecipeError that names what is wrong."""
    folder = path if path.is_dir() else path.parent
    return [
        Utterance(
            each.audio,
            normaliser(each.text),
            str(each.audio.relative_to(folder) if each.audio.is_relative_to(folder) else each.audio),
            each.source,
        )
        for each in read_utterances(path)
    ]


def durations(utterances: Sequence[Utterance]) -> list[float]:
    """Seconds of each recording as its header says; raises AudioError where one cannot be read."""
    return [_duration(utterance.audio) for utterance in utterances]


def _duration(path: Path) -> float:
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(f"{path}: the recording cannot be read ({error}); correct the manifest.") from error
