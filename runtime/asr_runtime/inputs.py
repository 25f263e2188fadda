"""What the arguments of `asr-run` name: files, folders, patterns, manifests and standard input, one recording each."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from asr_runtime.audio import is_address
from asr_runtime.errors import AudioError, listed

STANDARD_INPUT = "-"
MANIFEST_SUFFIX = ".jsonl"
MANIFEST_KEYS = ("audio", "audio_filepath")  # ours, NeMo's
AUDIO = "wav flac ogg oga opus mp3 aif aiff aifc au snd caf w64 rf64 sph voc"
CONTAINERS = "mp4 m4a m4b m4v mov mkv mka webm avi aac wma wmv asf flv mpg mpeg mp2 ts mts 3gp amr ac3 ape wv tta"
RAW = "raw pcm s16 s24 s32 f32 f64 s8 u8 ul al ulaw alaw"


@dataclass(frozen=True)
class Input:
    """A recording: its path (or `-`) as it is named to people, and its `place` below a folder of outputs."""

    name: str
    place: PurePath


def expand(arguments: Sequence[str], *, raw: bool = False) -> Iterator[Input | AudioError]:
    """The recordings that arguments name, in order; an error for each argument that names none.

    Folders are searched through, hidden files left out, by the suffixes of audio and video (of raw samples with `raw`).
    What exists is never taken for a pattern.
    """
    suffixes = {f".{name}" for name in (RAW if raw else f"{AUDIO} {CONTAINERS}").split()}
    for argument in arguments:
        try:
            yield from _named(argument, suffixes)
        except AudioError as error:
            yield error
        except OSError as error:
            yield AudioError(f"{argument}: this cannot be read ({error.strerror}); make it readable.")


def _named(argument: str, suffixes: set[str]) -> Iterator[Input | AudioError]:
    path = Path(argument)
    if argument == STANDARD_INPUT:
        yield Input(argument, PurePath("stdin"))
    elif os.path.isdir(argument):  # noqa: PTH112 (pathlib raises on names that cannot be)
        yield from _in_folder(path, suffixes)
    elif glob.has_magic(argument) and not (os.path.lexists(argument) or is_address(argument)):
        yield from _matching(argument, suffixes)
    elif path.suffix == MANIFEST_SUFFIX:
        yield from _in_manifest(path)
    else:
        yield Input(argument, PurePath(path.stem))


def _in_folder(folder: Path, suffixes: set[str]) -> Iterator[Input]:
    found = False
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if PurePath(name).suffix.lower() in suffixes and not name.startswith("."):
                found = True
                path = Path(parent, name)
                yield Input(str(path), path.relative_to(folder).with_suffix(""))
    if not found:
        raise AudioError(f"{folder}: this folder holds no recordings; give one that does.")


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: str, suffixes: set[str]) -> Iterator[Input]:
    """Files that match, and the recordings in folders that match."""
    parts = PurePath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = PurePath(*parts[:fixed])
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    files = [match for match in matches if not Path(match).is_dir()]
    if not matches:
        raise AudioError(f"{pattern}: nothing matches this pattern; check it.")
    if not files:
        for match in matches:
            yield from _in_folder(Path(match), suffixes)
    for file in files:
        yield Input(file, PurePath(os.path.relpath(file, root or ".")).with_suffix(""))


def _in_manifest(path: Path) -> Iterator[Input | AudioError]:
    """The recordings of a manifest, JSON lines with `audio` (or NeMo's `audio_filepath`) relative to it.

    Where a line is broken, errors in place of all of them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise AudioError(f"{path}: there is no such file; check the path.") from None
    except UnicodeDecodeError:
        raise AudioError(f"{path}: this manifest is not UTF-8 text; give lines of JSON.") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise AudioError(f"{path}: this manifest has no lines; give lines of JSON with 'audio'.")
    found = [_audio_of(line, f"{path}, line {number}") for number, line in lines]
    if faults := [str(item) for item in found if isinstance(item, AudioError)]:
        told = listed(faults)
        yield from map(AudioError, [*told[:-2], " ".join(told[-2:])])  # how many there are is no fault of its own
        return
    for name in map(str, found):
        audio = PurePath(name)
        inside = not audio.is_absolute() and ".." not in audio.parts
        yield Input(
            name if is_address(name) else str(path.parent / name),
            audio.with_suffix("") if inside else PurePath(audio.stem),
        )


def _audio_of(line: str, where: str) -> str | AudioError:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return AudioError(f'{where}: this is no JSON ({error}); give JSON like {{"audio": "talk.flac"}}.')
    name = next((row[key] for key in MANIFEST_KEYS if row.get(key)), None) if isinstance(row, dict) else None
    if not isinstance(name, str) or not PurePath(name).name:
        return AudioError(f'{where}: there is no recording; give JSON like {{"audio": "talk.flac"}}.')
    return name
