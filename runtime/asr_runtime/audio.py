"""Any recording to mono float32 at the model's rate: files, bytes, binary streams and arrays.

Reading goes block by block through libsndfile (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, …; `containers.py` for what
it does not know) and soxr, so that a long file never lies in memory whole unless `read_audio` is asked for it.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr_runtime import containers
from asr_runtime.errors import AudioError
from asr_runtime.raw import ENCODINGS, RawAudio, RawFormat

Samples: TypeAlias = NDArray[np.float32]
AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

BLOCK_VALUES = 1 << 18  # samples times channels that are read at once
MEMORY_BYTES = 64 << 20  # of a stream that cannot be sought in; more goes to a temporary file
RATES = (1_000, 1_000_000)  # hertz; outside, the header is wrong
# Overshoot of lossy formats stays far below; 16-bit samples given as floats lie far above.
LOUDEST = 10.0
UNKNOWN_FRAMES = 1 << 62  # libsndfile's count where a stream does not say its length is 2**63 - 1


def read_audio(source: AudioSource | RawAudio, sample_rate: int) -> Samples:
    """The whole of a file (path, its bytes, or a binary stream, then closed) as samples [n] at `sample_rate` hertz.

    Raises AudioError for what is missing, empty, no audio, cut off, or has samples that are no finite numbers.
    """
    return np.concatenate(list(audio_blocks(source, sample_rate)))


def audio_blocks(
    source: AudioSource | RawAudio, sample_rate: int, resampling: Callable[[float], None] | None = None
) -> Iterator[Samples]:
    """The same as `read_audio`, in blocks of some seconds; `resampling` is told the seconds that each block took."""
    raw = isinstance(source, RawAudio)
    stream, name = _open(source.source if isinstance(source, RawAudio) else source, seekable=not raw)
    try:
        with stream:
            if isinstance(source, RawAudio):
                blocks, rate = raw_blocks(stream, source.format, name), source.format.rate
            else:
                _check_whole(stream, name)
                blocks, rate = _decoded(stream, name, sample_rate)
            yield from _resampled(blocks, rate, sample_rate, name, resampling)
    except OSError as error:  # of the disk, or of a seek to where a damaged header points
        raise AudioError(f"{name}: reading failed ({error.strerror or error}); fetch the file again.") from error


def array_audio(samples: ArrayLike, rate: int, sample_rate: int) -> Samples:
    """Samples [n], [n, channels] or [channels, n] at `rate` hertz as mono float32 [n] at `sample_rate`.

    Integers are scaled by their type's range; floats are taken as -1…1. Of two axes the shorter is the channels.
    """
    values = np.asarray(samples)
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2) or 0 in values.shape:
        raise AudioError(
            f"audio array: got {values.dtype} of shape {list(values.shape)}; "
            "give numbers of shape [samples], [samples, channels] or [channels, samples]."
        )
    _check_rate(rate, "audio array")
    mono = _scaled(values)
    if mono.ndim == 2:
        mono = mono.mean(axis=int(np.argmin(mono.shape)))
    return np.concatenate(list(_resampled(iter([mono]), rate, sample_rate, "audio array")))


def _scaled(values: NDArray[Any]) -> Samples:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    limits = np.iinfo(values.dtype)
    middle = (int(limits.max) + int(limits.min) + 1) // 2
    return ((values.astype(np.float64) - middle) / (int(limits.max) - middle + 1)).astype(np.float32)


def _open(source: AudioSource, *, seekable: bool = True) -> tuple[BinaryIO, str]:
    """A binary stream, by default a seekable one, and its name for errors."""
    if isinstance(source, bytes | bytearray | memoryview):
        stream: BinaryIO = io.BytesIO(source)
        name = "audio bytes"
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        stream = _open_path(name)
    else:
        stream, name = source, str(getattr(source, "name", "audio stream"))
    return (_spooled(stream) if seekable and not stream.seekable() else stream), name


def _spooled(stream: BinaryIO) -> BinaryIO:
    """A copy of a stream that can be sought in; on disk where it is long."""
    copy: Any = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 (closed by who reads it)
    with stream:
        shutil.copyfileobj(stream, copy)
    return copy  # type: ignore[no-any-return]


def _open_path(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        if is_address(name):
            raise AudioError(
                f"{name}: recordings are not fetched from the network; download it and give the file."
            ) from None
        raise AudioError(f"{name}: there is no such file; check the path.") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: this is a folder; give the recordings in it.") from None
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", error)  # without the path, which stands before it
        raise AudioError(f"{name}: the file cannot be opened ({fault}); make it readable.") from error


def is_address(name: str) -> bool:
    """Whether a recording's name is the address of something elsewhere, like https://example.org/talk.flac."""
    return "://" in name


def _decoded(stream: BinaryIO, name: str, sample_rate: int) -> tuple[Iterator[Samples], int]:
    """Mono blocks of the stream, and its sample rate."""
    import soundfile

    stream.seek(0)
    try:
        # Without its name: soundfile takes a name that ends in .raw for headerless samples.
        file = soundfile.SoundFile(_Nameless(stream))
    except (soundfile.SoundFileError, TypeError) as error:
        if containers.available():
            blocks, rate = containers.decoded_container(stream, name, sample_rate)
            _check_rate(rate, name)
            return blocks, rate
        fault = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(
            f"{name}: this is not audio that can be read ({fault}); give WAV, FLAC, Ogg or MP3, or "
            f"{containers.SOFTWARE}."
        ) from error
    _check_rate(file.samplerate, name)
    return _mono_blocks(file, name), file.samplerate


class _Nameless:
    """What libsndfile calls of a stream: it takes no exception, so a seek or read that fails does nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.tell = stream.tell

    def seek(self, offset: int, whence: int) -> None:
        with suppress(OSError, ValueError):
            self._stream.seek(offset, whence)

    def read(self, count: int) -> bytes:
        with suppress(OSError, ValueError):
            return self._stream.read(count)
        return b""


def _mono_blocks(file: Any, name: str) -> Iterator[Samples]:
    import soundfile

    frames, count = max(1, BLOCK_VALUES // file.channels), 0
    # Else soundfile seeks behind each read, which decodes Opus anew and fails in FLAC that does not say its length.
    file.seekable = lambda: False
    with file:
        try:
            while len(block := file.read(min(frames, file.frames - count), dtype="float32", always_2d=True)):
                count += len(block)
                yield block[:, 0] if file.channels == 1 else block.mean(axis=1)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{name}: the audio breaks off or is damaged ({error}); fetch the file again.") from error
        if count < file.frames < UNKNOWN_FRAMES:
            raise AudioError(f"{name}: the file says {file.frames} samples but holds {count}; fetch it again.")


def raw_blocks(stream: BinaryIO, format: RawFormat, name: str) -> Iterator[Samples]:
    """Mono blocks of samples without a header; the stream need not be seekable and may come in any pieces."""
    import soundfile

    subtype, order, size = ENCODINGS[format.encoding]
    frame = size * format.channels
    rest = b""
    while block := stream.read(max(1, BLOCK_VALUES // format.channels) * frame):
        block = rest + block
        whole = len(block) // frame * frame
        rest = block[whole:]
        if not whole:
            continue
        layout = {"samplerate": format.rate, "channels": format.channels, "subtype": subtype, "endian": order}
        samples, _ = soundfile.read(io.BytesIO(block[:whole]), dtype="float32", always_2d=True, format="RAW", **layout)
        yield samples.mean(axis=1)
    if rest:
        raise AudioError(f"{name}: the raw samples end within a sample; check --raw and --channels, or fetch it again.")


def _resampled(
    blocks: Iterator[Samples],
    rate: int,
    sample_rate: int,
    name: str,
    resampling: Callable[[float], None] | None = None,
) -> Iterator[Samples]:
    """Blocks at `sample_rate`; refuses samples that are not finite or absurdly loud, and audio without any."""
    import soxr

    stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")

    def at_rate(block: Samples, last: bool = False) -> Samples:
        if stream is None:
            return np.ascontiguousarray(block)
        begin = perf_counter()
        resampled: Samples = stream.resample_chunk(np.ascontiguousarray(block), last=last)
        if resampling:
            resampling(perf_counter() - begin)
        return resampled

    count = 0
    for block in blocks:
        _check_samples(block, name)
        count += len(block)
        yield at_rate(block)
    if not count:
        raise AudioError(f"{name}: the audio has no samples; give a recording.")
    if stream:
        yield at_rate(np.empty(0, np.float32), last=True)


def _check_rate(rate: float, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{name}: the sample rate is {rate} hertz; give audio from {RATES[0]} to {RATES[1]}.")


def _check_samples(block: Samples, name: str) -> None:
    if not np.isfinite(block).all():
        raise AudioError(f"{name}: some samples are not finite numbers (NaN or infinity); repair the recording.")
    if (peak := float(np.abs(block).max(initial=0))) > LOUDEST:
        raise AudioError(f"{name}: samples reach {peak:.4g} where -1 to 1 is wanted; divide by the full scale.")


# --- files that were cut off: libsndfile reads what is left of WAV, AIFF and Ogg in silence ---------------------------


def _check_whole(stream: BinaryIO, name: str) -> None:
    size = stream.seek(0, os.SEEK_END)
    if not size:
        raise AudioError(f"{name}: the file is empty; give a recording.")
    stream.seek(0)
    head = stream.read(8)
    missing = 0
    if head[:4] in (b"RIFF", b"FORM"):
        declared = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
        # Writers into pipes put about 2 or 4 GiB; some others are off by the 8 bytes of this header.
        missing = declared - size if declared < 0x7FFF0000 and declared > size + 8 else 0
    elif head[:4] == b"OggS":
        missing = _ogg_missing(stream, size)
    if missing:
        raise AudioError(f"{name}: the file is cut off, its last part is missing; fetch or record it again.")


def _ogg_missing(stream: BinaryIO, size: int) -> int:
    """1 if the last Ogg page is not whole or not marked as the stream's last (RFC 3533, section 6), else 0."""
    stream.seek(max(0, size - (1 << 17)))  # a page is at most 65,307 bytes
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 27 else b""
    whole = len(page) > 27 and len(segments) == page[26] and len(page) >= 27 + page[26] + sum(segments)
    return 0 if whole and page[5] & 4 else 1
