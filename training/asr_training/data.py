"""Speech with text as it lies on disk: manifests and LibriSpeech folders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr_runtime.errors import RecipeError
from asr_training.recipe import Data, Source
from asr_training.text import Alphabet


@dataclass(frozen=True)
class Utterance:
    """One recording with its text; `where` names its line for errors."""

    audio: Path
    text: str
    where: str
    source: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line of the data."""

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


def read_source(source: Source, data: Data, alphabet: Alphabet) -> list[Utterance]:
    """Read the utterances of a source, see `find_utterances`; the first fault is a RecipeError."""
    utterances = []
    for item in find_utterances(source, data, alphabet):
        if isinstance(item, Fault):
            raise RecipeError(str(item))
        utterances.append(item)
    return utterances


def find_utterances(source: Source, data: Data, alphabet: Alphabet) -> list[Utterance | Fault]:
    """Read a manifest (see `read_manifest`) or a LibriSpeech folder (see `read_librispeech`), and check the texts."""
    path = Path(source.path)
    if path.is_dir():
        found = read_librispeech(path)
    elif path.is_file():
        found = read_manifest(path)
    else:
        raise RecipeError(
            f"no data at {path}: neither a manifest nor a LibriSpeech folder; correct the recipe's [data]"
        )
    if not found:
        raise RecipeError(f"{path} holds no utterances; give a manifest or folder that has some")
    return [item if isinstance(item, Fault) else check_text(item, data, alphabet) for item in found]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file that are not blank, each behind its place for errors."""
    try:
        # Not str.splitlines, which also splits at characters that stand inside of texts, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path} as UTF-8 text ({error}); correct or convert it") from None
    return ((f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def read_manifest(path: Path) -> list[Utterance | Fault]:
    """Read JSON lines with `audio` (relative to the manifest) and `text`; `source` and `speaker` may stand beside."""
    return [read_row(path.parent, where, line) for where, line in read_lines(path)]


def read_row(folder: Path, where: str, line: str) -> Utterance | Fault:
    """One line of a manifest that lies in `folder`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Fault("broken line", where, f"not JSON ({error}); write one JSON object a line")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("audio", "text")):
        return Fault("broken line", where, "wanted an object with the texts 'audio' and 'text'; add what is missing")
    labels = {key: str(row.get(key, "")) for key in ("source", "speaker")}
    return Utterance(folder / row["audio"], row["text"], where, **labels)


def read_librispeech(folder: Path) -> list[Utterance | Fault]:
    """Read every *.trans.txt below, each line `SPEAKER-CHAPTER-NUMBER TEXT` beside a .flac (Panayotov et al. 2015)."""
    utterances: list[Utterance | Fault] = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for where, line in read_lines(transcript):
            name, _, text = line.partition(" ")
            utterances.append(
                Utterance(transcript.parent / f"{name}.flac", text, where, "librispeech", name.split("-")[0])
            )
    return utterances


def check_text(utterance: Utterance, data: Data, alphabet: Alphabet) -> Utterance | Fault:
    """The utterance, in lower case if so configured, unless its text is empty or not of the alphabet."""
    text = utterance.text.lower() if data.lower_case else utterance.text
    if not text.strip():
        return Fault("empty text", utterance.where, "the text is empty; write what is said or remove the line")
    if unknown := alphabet.unknown(text):
        detail = (
            f"the character {unknown!r} is outside the alphabet {alphabet.characters!r};"
            " write it in words or add it to the recipe's alphabet"
        )
        return Fault("character outside the alphabet", utterance.where, detail)
    return dataclasses.replace(utterance, text=text)
