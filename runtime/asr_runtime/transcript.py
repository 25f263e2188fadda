"""What a recording says: text, words with times and confidences, and segments between pauses."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PAUSE = 0.8  # seconds between two words that begin a new segment


@dataclass(frozen=True, slots=True)  # of ten hours there are a hundred thousand
class Word:
    """A word with its `start` and `end` in seconds and a `confidence` in 0…1."""

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that follow each other without a pause; `start` and `end` in seconds."""

    start: float
    end: float
    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another reading of the whole recording; `score` is the natural logarithm that the search maximises."""

    text: str
    score: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """The text of one recording.

    `duration` is in seconds, `confidence` the mean of the words' (0 without any), `device` where the model really ran,
    `language` the bundle's. `alternatives`, the best first and `text` among them, are there where more than one reading
    was asked for.
    """

    audio: str
    duration: float
    text: str
    confidence: float
    words: tuple[Word, ...] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    model: str = ""
    device: str = ""
    language: str = ""
    alternatives: tuple[Alternative, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """For notebooks: the words, paler where less certain, each with its times as a tooltip."""
        spans = (
            f'<span style="opacity:{0.35 + 0.65 * word.confidence:.2f}" '
            f'title="{word.start:.2f}–{word.end:.2f} s, confidence {word.confidence:.2f}">'
            f"{html.escape(word.word)}</span>"
            for word in self.words
        )
        caption = f"{html.escape(self.audio)} · {self.duration:.1f} s · {html.escape(self.model)}"
        return f"<p>{' '.join(spans)}</p><small>{caption}</small>"


class _Confident(Protocol):
    @property
    def confidence(self) -> float: ...


def mean_confidence(words: Sequence[_Confident]) -> float:
    """Mean of the words' confidences, 0 without words."""
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def split_at_pauses(words: Sequence[Word], pause: float = PAUSE) -> Iterator[Segment]:
    """Segments of words with at least `pause` seconds of silence between them."""
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or words[index].start - words[index - 1].end >= pause:
            run = words[first:index]
            yield Segment(run[0].start, run[-1].end, " ".join(word.word for word in run), mean_confidence(run))
            first = index
