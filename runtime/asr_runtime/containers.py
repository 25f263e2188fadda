"""Sound out of what libsndfile does not read, like MP4, Matroska or AAC: by PyAV or ffmpeg, where one is there.

Both decode the first audio track; its channels become their mean (PyAV) or what ffmpeg mixes them to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from asr_runtime.errors import AudioError

Samples = NDArray[np.float32]
BLOCK_BYTES = 1 << 20
SOFTWARE = "install ffmpeg or PyAV for other formats"  # what a user without them is told


def available() -> bool:
    """Whether there is anything that reads containers."""
    return find_spec("av") is not None or shutil.which("ffmpeg") is not None


def decoded_container(stream: BinaryIO, name: str, sample_rate: int) -> tuple[Iterator[Samples], int]:
    """Mono blocks of a seekable stream's first audio track, and their rate (ffmpeg resamples to `sample_rate`)."""
    stream.seek(0)
    if find_spec("av") is not None:
        return _by_pyav(stream, name)
    return _by_ffmpeg(stream, name, sample_rate), sample_rate


def _by_pyav(stream: BinaryIO, name: str) -> tuple[Iterator[Samples], int]:
    import av

    try:
        # A playlist may name anything; nothing is fetched from the network.
        container: Any = av.open(stream, options={"protocol_whitelist": "file"})
        track = container.streams.audio[0]
        rate = int(track.rate)
    except (av.FFmpegError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise _not_audio(name, error) from error

    def blocks() -> Iterator[Samples]:
        planes = av.AudioResampler(format="fltp")
        with container:
            try:
                for frame in container.decode(track):
                    yield from (part.to_ndarray().mean(axis=0) for part in planes.resample(frame))
                yield from (part.to_ndarray().mean(axis=0) for part in planes.resample(None))
            except (av.FFmpegError, ValueError) as error:
                raise _damaged(name, error) from error

    return blocks(), rate


def _by_ffmpeg(stream: BinaryIO, name: str, sample_rate: int) -> Iterator[Samples]:
    with ExitStack() as stack:
        faults = stack.enter_context(tempfile.TemporaryFile())
        source = _as_file(stream, stack)
        command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", f"file:{source}"]
        command += ["-map", "0:a:0", "-ac", "1", "-ar", str(sample_rate), "-f", "f32le", "pipe:1"]
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=faults)
        )
        stack.callback(process.kill)  # where the reader leaves early
        count = 0
        while block := process.stdout.read(BLOCK_BYTES) if process.stdout else b"":
            count += len(block)
            yield np.frombuffer(block[: len(block) // 4 * 4], "<f4").astype(np.float32)
        if process.wait():
            faults.seek(0)
            lines = faults.read(4096).decode("utf-8", "replace").strip().split("\n")
            raise (_damaged if count else _not_audio)(name, lines[-1].replace(f"file:{source}", name))


def _as_file(stream: BinaryIO, stack: ExitStack) -> str:
    """The path of a stream that is a file; else of a copy of it."""
    path = getattr(stream, "name", None)
    if isinstance(path, str) and os.path.isfile(path):  # noqa: PTH113
        return os.path.abspath(path)  # noqa: PTH100
    copy = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115 (the stack closes it)
    shutil.copyfileobj(stream, copy)
    copy.flush()
    return copy.name


def _not_audio(name: str, fault: object) -> AudioError:
    return AudioError(f"{name}: this is not audio that can be read ({_brief(fault)}); give a recording.")


def _damaged(name: str, fault: object) -> AudioError:
    return AudioError(f"{name}: the audio breaks off or is damaged ({_brief(fault)}); fetch the file again.")


def _brief(fault: object) -> str:
    return " ".join(str(fault).split())[:200].rstrip(".")
