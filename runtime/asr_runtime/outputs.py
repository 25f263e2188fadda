"""Where transcripts go: standard output, one file, or a file for each recording; every file is whole or not there."""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Protocol, TextIO

from asr_runtime.errors import AsrError
from asr_runtime.inputs import STANDARD_INPUT, Input
from asr_runtime.options import Destination
from asr_runtime.transcript import Transcript
from asr_runtime.writers import FORMATS, JsonLines, Writer

SUFFIXES = {name: name.removeprefix("verbose_") for name in FORMATS}
STANDARD_INPUT_NAME = "<stdin>"  # as transcripts call it


class Output(Protocol):
    """Takes transcripts, in the order of the recordings."""

    def wants(self, recording: Input) -> bool:
        """Whether this one is still to be written; raises AsrError where it cannot be."""

    def write(self, recording: Input, transcript: Transcript) -> None:
        """Write one."""

    def end(self) -> None:
        """There are no more."""


@contextmanager
def opened(place: Destination, recordings: Sequence[Input]) -> Iterator[Output]:
    """The output for `recordings`; what was begun is taken back unless the context ends without an exception."""
    if place.folder or place.beside:
        yield FileForEach(place)
    elif place.resume and place.file:
        with _appended(place.file) as lines:
            yield ResumedLines(lines, place)
    else:
        kind = FORMATS[place.formats[0]]
        if len(recordings) > 1 and not kind.several:
            raise AsrError(f"one {place.formats[0]} holds one recording; give --output-dir or --beside for several.")
        with _opened(place.file, place.force) as stream:
            yield OneStream(stream, kind(len(recordings) == 1, place.style))


class OneStream:
    """All transcripts one behind the other."""

    def __init__(self, stream: TextIO, writer: Writer) -> None:
        self._stream, self._writer, self._begun = stream, writer, False

    def wants(self, recording: Input) -> bool:
        """All of them."""
        return True

    def write(self, recording: Input, transcript: Transcript) -> None:
        """Write one, at once."""
        self._say(self._writer.body(transcript))

    def end(self) -> None:
        """Close what is open."""
        self._say([self._writer.tail()])

    def _say(self, pieces: Iterable[str]) -> None:
        if not self._begun:
            self._stream.write(self._writer.head())
        self._begun = True
        self._stream.writelines(pieces)
        self._stream.flush()


class ResumedLines:
    """A file of JSON lines that grows line by line; recordings whose lines are there already are not wanted."""

    def __init__(self, file: int, place: Destination) -> None:
        self._file, self._writer = file, JsonLines(False, place.style)
        self._written = _recordings_in(file, place.file)

    def wants(self, recording: Input) -> bool:
        """Those without a line."""
        return (STANDARD_INPUT_NAME if recording.name == STANDARD_INPUT else recording.name) not in self._written

    def write(self, recording: Input, transcript: Transcript) -> None:
        """Append a line."""
        rest = "".join(self._writer.body(transcript)).encode("utf-8", "surrogateescape")
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def end(self) -> None:
        """Nothing: every line is whole."""


class FileForEach:
    """Files with the names of their recordings, in a folder or beside these."""

    def __init__(self, place: Destination) -> None:
        if place.folder and place.folder.exists() and not place.folder.is_dir():
            raise AsrError(f"{place.folder}: this is a file where a folder for the texts is wanted; give another.")
        self._place = place
        self._claimed: dict[Path, str] = {}

    def wants(self, recording: Input) -> bool:
        """Those that have a file missing (all with --force); a name that is taken is an error."""
        if self._place.beside and recording.name == STANDARD_INPUT:
            raise AsrError("standard input has no folder to write beside; give --output-dir.")
        for path in self._paths(recording).values():
            if (other := self._claimed.setdefault(path, recording.name)) != recording.name:
                raise AsrError(f"{recording.name}: its text would be {path}, which is that of {other}; rename one.")
            if path == Path(recording.name):
                raise AsrError(f"{recording.name}: its text would replace the recording; choose another format.")
            if path.exists() and not (self._place.force or self._place.resume):
                raise AsrError(
                    f"{recording.name}: {path} is there already; give --resume to keep it, or --force to replace it."
                )
        return bool(self._missing(recording))

    def write(self, recording: Input, transcript: Transcript) -> None:
        """Write its files, each beside and renamed."""
        for name, path in self._missing(recording).items():
            writer = FORMATS[name](True, self._place.style)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AsrError(f"{path.parent}: this folder cannot be made ({error.strerror}).") from error
            with _renamed_when_whole(path) as stream:
                stream.writelines(chain([writer.head()], writer.body(transcript), [writer.tail()]))

    def end(self) -> None:
        """Nothing: every file is whole."""

    def _missing(self, recording: Input) -> dict[str, Path]:
        paths = self._paths(recording)
        return paths if self._place.force else {name: path for name, path in paths.items() if not path.exists()}

    def _paths(self, recording: Input) -> dict[str, Path]:
        base = self._place.folder / recording.place if self._place.folder else Path(recording.name).with_suffix("")
        return {name: base.with_name(f"{base.name}.{SUFFIXES[name]}") for name in self._place.formats}


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path | None, force: bool) -> Iterator[TextIO]:
    """Standard output; a pipe or device as it is; or a file that is written beside `path` and renamed when whole."""
    if path is None:
        if sys.stdout is None:
            raise AsrError("standard output is closed; open it or give --output.")
        yield sys.stdout
    elif path.exists() and not path.is_file():
        with _writable(path) as out:
            yield out
    elif path.exists() and not force:
        raise AsrError(f"{path}: something lies here already; give another --output, or --force to replace it.")
    else:
        with _renamed_when_whole(path) as out:
            yield out


def _writable(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> AsrError:
    fault = getattr(error, "strerror", error)
    return AsrError(f"{path}: the output cannot be written ({fault}); give another --output.")


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[TextIO]:
    try:
        target = path.resolve()  # what a link leads to is replaced, never the link
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from error
    beside = Path(name)

    def remove() -> None:
        beside.unlink(missing_ok=True)

    atexit.register(remove)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as out:
            yield out
        beside.chmod(0o666 & ~_umask())
        beside.replace(target)
    finally:
        remove()
        atexit.unregister(remove)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _appended(path: Path) -> Iterator[int]:
    """A file open for reading and for whole lines to be added."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield file
    finally:
        os.close(file)


def _recordings_in(file: int, path: Path | None) -> set[str]:
    """The recordings that a file of JSON lines has; a last line that was cut off is taken away."""
    written: set[str] = set()
    whole = 0
    with os.fdopen(os.dup(file), "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                os.ftruncate(file, whole)
                break
            try:
                written.add(json.loads(line.decode("utf-8", "surrogateescape"))["audio"])
            except (ValueError, TypeError, KeyError, RecursionError):
                raise AsrError(
                    f"{path}: line {number} is none of asr-run's, so --resume cannot go on; give another --output."
                ) from None
            whole += len(line)
    return written
