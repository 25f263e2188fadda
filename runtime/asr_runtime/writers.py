"""Transcripts as text in one of several formats: one small class each, found by its name in `FORMATS`."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any, Protocol

from asr_runtime.subtitles import Cue, Layout
from asr_runtime.transcript import Transcript

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

    def body(self, transcript: Transcript) -> str:
        """One transcript, in the order of the inputs."""

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

    def body(self, transcript: Transcript) -> str:
        """A line."""
        return f"{transcript.text}\n" if self.single else f"{transcript.audio}\t{transcript.text}\n"


class JsonLines(_Plain):
    """An object on a line of its own for each recording."""

    def body(self, transcript: Transcript) -> str:
        """An object and the end of its line."""
        return json.dumps(as_json(transcript, words=self.style.words), ensure_ascii=False) + "\n"


class Json(_Plain):
    """An object for a single recording, else a list of objects; seconds as floats."""

    def __init__(self, single: bool, style: Style) -> None:
        super().__init__(single, style)
        self._count = 0

    def head(self) -> str:
        """The opening of the list."""
        return "" if self.single else "["

    def body(self, transcript: Transcript) -> str:
        """An object."""
        text = json.dumps(self.content(transcript), ensure_ascii=False, indent=2)
        if self.single:
            return text + "\n"
        self._count += 1
        return ("\n" if self._count == 1 else ",\n") + text

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
            "segments": [_openai_segment(number, segment) for number, segment in enumerate(plain["segments"])],
            **{key: plain[key] for key in ("words", "confidence", "alternatives") if key in plain},
            **{key: plain[key] for key in ("audio", "model", "device")},
        }


class Srt(_Plain):
    """SubRip: numbered cues."""

    several = False

    def body(self, transcript: Transcript) -> str:
        """All cues."""
        cues = enumerate(self.style.layout.cues(transcript.words), 1)
        return "".join(f"{number}\n{_times(cue, ',')}\n{_text(cue)}\n\n" for number, cue in cues)


class Vtt(_Plain):
    """WebVTT (W3C): cues with `&`, `<` and `>` escaped."""

    several = False

    def head(self) -> str:
        """The signature."""
        return "WEBVTT\n"

    def body(self, transcript: Transcript) -> str:
        """All cues."""
        cues = self.style.layout.cues(transcript.words)
        return "".join(f"\n{_times(cue, '.')}\n{_escaped(_text(cue))}\n" for cue in cues)


class Ctm(_Plain):
    """NIST's time-marked words: recording, channel 1, start, length, word, confidence; for sclite and its kin."""

    def body(self, transcript: Transcript) -> str:
        """A line for each word."""
        recording = re.sub(r"\s+", "_", PurePath(transcript.audio).stem) or "audio"
        return "".join(
            f"{recording} 1 {word.start:.3f} {word.end - word.start:.3f} {word.word} {word.confidence:.4f}\n"
            for word in transcript.words
        )


class Tsv(_Plain):
    """Segments with start and end in milliseconds, as Whisper writes them; of several recordings with the path."""

    def head(self) -> str:
        """The names of the columns."""
        return "start\tend\ttext\n" if self.single else "audio\tstart\tend\ttext\n"

    def body(self, transcript: Transcript) -> str:
        """A line for each segment."""
        path = "" if self.single else f"{transcript.audio}\t"
        return "".join(
            f"{path}{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{segment.text}\n"
            for segment in transcript.segments
        )


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
    """A transcript as plain objects; times to the millisecond, confidences and scores to four places.

    `alternatives` stands there only where more than one reading was asked for; `words` False leaves the words out.
    """
    content = _rounded(asdict(transcript))
    for key, wanted in (("words", words), ("alternatives", bool(transcript.alternatives))):
        if not wanted:
            del content[key]
    return content  # type: ignore[no-any-return]


def _rounded(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item, name) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return round(value, 4 if key in ("confidence", "score") else 3) if isinstance(value, float) else value


def _openai_segment(number: int, segment: dict[str, Any]) -> dict[str, Any]:
    text = segment["text"].encode()
    return {
        "id": number,
        "seek": round(100 * segment["start"]),  # Whisper's frames of 10 ms
        "start": segment["start"],
        "end": segment["end"],
        "text": segment["text"],
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(segment["confidence"], LEAST_CONFIDENCE)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
        "confidence": segment["confidence"],
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
