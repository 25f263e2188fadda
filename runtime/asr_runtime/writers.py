"""Transcripts as text in one of several formats: one small class each, found by its name in `FORMATS`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from asr_runtime.transcript import Transcript


class Writer(Protocol):
    """Turns the transcripts of one output into text: `head`, then each one's `body`, then `tail`."""

    def head(self) -> str:
        """What stands before the first transcript."""

    def body(self, transcript: Transcript) -> str:
        """One transcript, in the order of the inputs."""

    def tail(self) -> str:
        """What stands behind the last transcript."""


class Txt:
    """The text of a single recording, or lines of path, tabulator, text."""

    def __init__(self, single: bool) -> None:
        self._single = single

    def head(self) -> str:
        """Nothing."""
        return ""

    def body(self, transcript: Transcript) -> str:
        """A line."""
        return f"{transcript.text}\n" if self._single else f"{transcript.audio}\t{transcript.text}\n"

    def tail(self) -> str:
        """Nothing."""
        return ""


class Json:
    """An object for a single recording, else a list of objects; seconds as floats."""

    def __init__(self, single: bool) -> None:
        self._single = single
        self._count = 0

    def head(self) -> str:
        """The opening of the list."""
        return "" if self._single else "["

    def body(self, transcript: Transcript) -> str:
        """An object."""
        text = json.dumps(as_json(transcript), ensure_ascii=False, indent=2)
        if self._single:
            return text + "\n"
        self._count += 1
        return ("\n" if self._count == 1 else ",\n") + text

    def tail(self) -> str:
        """The closing of the list."""
        return "" if self._single else "\n]\n"


FORMATS: dict[str, type[Txt] | type[Json]] = {"txt": Txt, "json": Json}


def as_json(transcript: Transcript) -> dict[str, Any]:
    """A transcript as plain objects; times to the millisecond, confidences to four places."""
    return _rounded(asdict(transcript))  # type: ignore[no-any-return]


def _rounded(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item, name) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return round(value, 4 if key == "confidence" else 3) if isinstance(value, float) else value
