"""Manifests of speech with text: JSON lines, and LibriSpeech's folders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_runtime.errors import RecipeError, listed

MOST_SECONDS = 1e9  # at which a cut can be


@dataclass(frozen=True)
class Utterance:
    """One recording with its text; `where` names its line for errors."""

    audio: Path
    text: str
    where: str
    source: str = ""
    speaker: str = ""
    cuts: tuple[tuple[int, float], ...] = ()  # before which word it can be cut, and at which second; see align.py


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line of the data."""

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


def read_utterances(path: Path) -> list[Utterance]:
    """The utterances of a manifest or a LibriSpeech folder; raises RecipeError for faults."""
    return without_faults(find_utterances(path))


def without_faults(found: Sequence[Utterance | Fault]) -> list[Utterance]:
    """The utterances that were found; raises RecipeError for faults, the first of them a line each."""
    if faults := [str(item) for item in found if isinstance(item, Fault)]:
        raise RecipeError("\n".join(listed(faults)))
    return [item for item in found if isinstance(item, Utterance)]


def find_utterances(path: Path) -> list[Utterance | Fault]:
    """What a manifest (see `read_row`) or a LibriSpeech folder (see `read_librispeech`) holds, line by line."""
    found: list[Utterance | Fault]
    if path.is_dir():
        found = [*read_librispeech(path)]
    elif path.is_file():
        found = [read_row(path.parent, where, line) for where, line in read_lines(path)]
    else:
        raise RecipeError(
            f"no data at {path}: no manifest and no folder of LibriSpeech or shards; correct the path"
            + ("" if path.is_absolute() else f", which goes from {Path.cwd()}")
        )
    if not found:
        what = "no transcripts in LibriSpeech's way (*.trans.txt)" if path.is_dir() else "no utterances"
        raise RecipeError(f"{path} holds {what}; give a manifest or folder that has some")
    return found


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file that are not blank, each behind its place for errors."""
    try:
        # Not str.splitlines, which also splits at characters that stand inside of texts, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path} as UTF-8 text ({error}); correct or convert it") from None
    return ((f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def read_manifest(path: Path) -> list[Utterance]:
    """Read a manifest (see `read_row`); raises RecipeError for faults."""
    return without_faults([read_row(path.parent, where, line) for where, line in read_lines(path)])


def read_row(folder: Path, where: str, line: str) -> Utterance | Fault:
    """Read a line of a manifest in `folder`: `audio` (relative to it) and `text`, and what is known besides.

    That are `source` and `speaker`, and `cuts`, pairs of a word and a second (see `align.find_cuts`).
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Fault("broken line", where, f"not JSON ({error}); write one JSON object a line")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("audio", "text")):
        return Fault("broken line", where, "wanted an object with the texts 'audio' and 'text'; add what is missing")
    cuts = row.get("cuts", [])
    if not are_cuts(cuts, len(row["text"].split())):
        detail = (
            f"the cuts {str(cuts)[:60]} are not rising pairs of a word of the text, from 0 on, and a second; take"
            " 'cuts' out of the line, or make them anew from a manifest without, with asr-train align"
        )
        return Fault("broken line", where, detail)
    source, speaker = ("" if row.get(key) is None else str(row[key]) for key in ("source", "speaker"))
    cuts = tuple((word, float(second)) for word, second in cuts)
    return Utterance(folder / row["audio"], row["text"], where, source, speaker, cuts)


def are_cuts(cuts: Any, words: int) -> bool:
    """Whether they are pairs of a number from 0 to `words` and a second, both of which rise."""
    pairs = isinstance(cuts, list) and all(isinstance(cut, list) and len(cut) == 2 for cut in cuts)
    if not pairs or not all(type(word) is int and type(second) in (int, float) for word, second in cuts):
        return False
    if not cuts:
        return True
    (first, begin), (last, end) = cuts[0], cuts[-1]
    rising = all(word < later and second < then for (word, second), (later, then) in itertools.pairwise(cuts))
    return rising and min(first, begin) >= 0 and last <= words and end < MOST_SECONDS


def read_librispeech(folder: Path) -> list[Utterance]:
    """Read every *.trans.txt below, each line `SPEAKER-CHAPTER-NUMBER TEXT` beside a .flac (Panayotov et al. 2015)."""
    utterances = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for where, line in read_lines(transcript):
            name, _, text = line.partition(" ")
            utterances.append(
                Utterance(transcript.parent / f"{name}.flac", text, where, "librispeech", name.split("-")[0])
            )
    return utterances
