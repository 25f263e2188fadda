"""Samples without a header: how they lie, as flags or code describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr_runtime.errors import AudioError

if TYPE_CHECKING:
    from asr_runtime.audio import AudioSource

# ffmpeg's names for them -> libsndfile's subtype and byte order, and bytes of a sample
ENCODINGS = {
    "s16le": ("PCM_16", "LITTLE", 2),
    "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3),
    "s32le": ("PCM_32", "LITTLE", 4),
    "s8": ("PCM_S8", "FILE", 1),
    "u8": ("PCM_U8", "FILE", 1),
    "f32le": ("FLOAT", "LITTLE", 4),
    "f64le": ("DOUBLE", "LITTLE", 8),
    "mulaw": ("ULAW", "FILE", 1),
    "alaw": ("ALAW", "FILE", 1),
}


@dataclass(frozen=True)
class RawFormat:
    """`encoding` is one of `ENCODINGS`, `rate` in hertz; samples of `channels` alternate."""

    encoding: str
    rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise AudioError(f"raw samples of {self.encoding!r} are not known; give one of {', '.join(ENCODINGS)}.")
        if not 1 <= self.channels <= 1024:
            raise AudioError(f"raw samples have {self.channels} channels; give 1 to 1024.")


@dataclass(frozen=True)
class RawAudio:
    """A file, bytes or stream of samples in `format`."""

    source: AudioSource
    format: RawFormat
