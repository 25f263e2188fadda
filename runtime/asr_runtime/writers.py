"""Transcripts as text in one of several formats: one small class each, found by its name in `FORMATS`.

A transcript's text comes in pieces, so that the JSON of a long recording never lies in memory whole.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Protocol

from asr_runtime.subtitles import Cue, Layout
from asr_runtime.transcript import Segment, Transcript

LEAST_CONFIDENCE = 1e-6  # below, a logarithm says nothing more
LANGUAGES = {"de": "german", "en": "english", "es": "spanish", "fr": "french", "it": "italian", "nl": "dutch"}


@dataclass(frozen=True)
class Style:
    """Choices that some formats take: whether JSON lists words, and how much a subtitle holds."""

    words: bool = True
    layout: Layout = field(default_factory=Layout)


class Writer(Protocol):
    """Turns the transcripts of one output into text: `head`, then each one's `body`, then `tail`.

    `single` says that there is one recording; formats that cannot hold several have `several` False.
    """

    several: bool

    def __init__(self, single: bool, style: Style) -> None: ...

    def head(self) -> str:
        """What stands before the first transcript."""

    def body(self, transcript: Transcript) -> Iterator[str]:
        """The pieces of one transcript, in the order of the inputs."""

    def tail(self) -> str:
        """What stands behind the last transcript."""


class _Plain:
    """A format without anything around its transcripts."""

    several = True

    def __init__(self, single: bool, style: Style) -> None:
        self.single, self.style = single, style

    def head(self) -> str:
        return ""

    def tail(self) -> str:
        return ""


class Txt(_Plain):
    """The text of a single recording, or lines of path, tabulator, text."""

    def body(self, transcript: Transcript) -> Iterator[str]:
        """A line."""
        yield f"{transcript.text}\n" if self.single else f"{transcript.audio}\t{transcript.text}\n"


class JsonLines(_Plain):
    """An object on a line of its own for each recording."""

    def body(self, transcript: Transcript) -> Iterator[str]:
        """An object and the end of its line."""
        yield from json_pieces(as_json(transcript, words=self.style.words))
        yield "\n"


class Json(_Plain):
    """An object for a single recording, else a list of objects; seconds as floats."""

    def __init__(self, single: bool, style: Style) -> None:
        super().__init__(single, style)
        self._count = 0

    def head(self) -> str:
        """The opening of the list."""
        return "" if self.single else "["

    def body(self, transcript: Transcript) -> Iterator[str]:
        """An object."""
        if not self.single:
            yield ",\n" if self._count else "\n"
        self._count += 1
        yield from json_pieces(self.content(transcript), indent=2)
        if self.single:
            yield "\n"

    def content(self, transcript: Transcript) -> dict[str, Any]:
        """What the object holds."""
        return as_json(transcript, words=self.style.words)

    def tail(self) -> str:
        """The closing of the list."""
        return "" if self.single else "\n]\n"


class VerboseJson(Json):
    """OpenAI's `verbose_json` with `confidence`, `audio`, `model` and `device` besides.

    What only Whisper has is there for programs that ask for it: `tokens` is empty, `temperature` and `no_speech_prob`
    are 0; `avg_logprob` is the logarithm of the segment's confidence, `compression_ratio` zlib's as Whisper takes it.
    """

    def content(self, transcript: Transcript) -> dict[str, Any]:
        """What the object holds."""
        plain = as_json(transcript, words=self.style.words)
        return {
            "task": "transcribe",
            "language": LANGUAGES.get(transcript.language, transcript.language),
            "duration": plain["duration"],
            "text": transcript.text,
            "segments": [_openai_segment(number, segment) for number, segment in enumerate(transcript.segments)],
            **{key: plain[key] for key in ("words", "confidence", "alternatives") if key in plain},
            **{key: plain[key] for key in ("audio", "model", "device")},
        }


class Srt(_Plain):
    """SubRip: numbered cues."""

    several = False

    def body(self, transcript: Transcript) -> Iterator[str]:
        """The cues."""
        for number, cue in enumerate(self.style.layout.cues(transcript.words), 1):
            yield f"{number}\n{_times(cue, ',')}\n{_text(cue)}\n\n"


class Vtt(_Plain):
    """WebVTT (W3C): cues with `&`, `<` and `>` escaped."""

    several = False

    def head(self) -> str:
        """The signature."""
        return "WEBVTT\n"

    def body(self, transcript: Transcript) -> Iterator[str]:
        """The cues."""
        for cue in self.style.layout.cues(transcript.words):
            yield f"\n{_times(cue, '.')}\n{_escaped(_text(cue))}\n"


class Ctm(_Plain):
    """NIST's time-marked words: recording, channel 1, start, length, word, confidence; for sclite and its kin."""

    def body(self, transcript: Transcript) -> Iterator[str]:
        """A line for each word."""
        recording = re.sub(r"\s+", "_", PurePath(transcript.audio).stem) or "audio"
        for word in transcript.words:
            yield f"{recording} 1 {word.start:.3f} {word.end - word.start:.3f} {word.word} {word.confidence:.4f}\n"


class Tsv(_Plain):
    """Segments with start and end in milliseconds, as Whisper writes them; of several recordings with the path."""

    def head(self) -> str:
        """The names of the columns."""
        return "start\tend\ttext\n" if self.single else "audio\tstart\tend\ttext\n"

    def body(self, transcript: Transcript) -> Iterator[str]:
        """A line for each segment."""
        path = "" if self.single else f"{transcript.audio}\t"
        for segment in transcript.segments:
            yield f"{path}{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{segment.text}\n"


FORMATS: dict[str, type[Writer]] = {
    "txt": Txt,
    "json": Json,
    "jsonl": JsonLines,
    "srt": Srt,
    "vtt": Vtt,
    "ctm": Ctm,
    "tsv": Tsv,
    "verbose_json": VerboseJson,
}


def as_json(transcript: Transcript, *, words: bool = True) -> dict[str, Any]:
    """What JSON says of a transcript; its words, segments and alternatives are for `json_pieces` to spell out.

    `alternatives` stands there only where more than one reading was asked for; `words` False leaves the words out.
    """
    content = _as_object(transcript)
    for key, wanted in (("words", words), ("alternatives", bool(transcript.alternatives))):
        if not wanted:
            del content[key]
    return content


def json_pieces(content: dict[str, Any], indent: int | None = None) -> Iterator[str]:
    """JSON in small pieces; words and the like become objects one by one."""
    return json.JSONEncoder(ensure_ascii=False, indent=indent, default=_as_object).iterencode(content)


def _as_object(item: Any) -> dict[str, Any]:
    """Times to the millisecond, confidences and scores to four places."""
    return {part.name: _rounded(part.name, getattr(item, part.name)) for part in fields(item)}


def _rounded(key: str, value: Any) -> Any:
    return round(value, 4 if key in ("confidence", "score") else 3) if isinstance(value, float) else value


def _openai_segment(number: int, segment: Segment) -> dict[str, Any]:
    plain, text = _as_object(segment), segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * plain["start"]),  # Whisper's frames of 10 ms
        "start": plain["start"],
        "end": plain["end"],
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(plain["confidence"], LEAST_CONFIDENCE)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
        "confidence": plain["confidence"],
    }


def _times(cue: Cue, decimal: str) -> str:
    return " --> ".join(_clock(seconds, decimal) for seconds in (cue.start, cue.end))


def _clock(seconds: float, decimal: str) -> str:
    """Hours, minutes, seconds and milliseconds, as SubRip (decimal comma) and WebVTT (decimal point) write them."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, fraction = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{decimal}{fraction:03}"


def _text(cue: Cue) -> str:
    return "\n".join(" ".join(word.word for word in line) for line in cue.lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
