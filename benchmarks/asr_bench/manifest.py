"""Manifests: JSON lines of recordings and what is said in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_runtime.errors import RecipeError


@dataclass(frozen=True)
class Utterance:
    """A recording, its normalised text, its name in the manifest, and its source ("" if the manifest has none)."""

    audio: Path
    text: str
    name: str
    source: str = ""


def normalise(text: str) -> str:
    """Lower case, typographic apostrophes made plain, and nothing but letters, digits, `'` and single spaces."""
    return " ".join(re.sub(r"[^\w' ]|_", " ", text.lower().replace("’", "'")).split())


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of a JSON-lines manifest; raises RecipeError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split at U+2028 in texts, too
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: the manifest cannot be read ({error}); give a JSON-lines file.") from error
    utterances = [_utterance(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not utterances:
        raise RecipeError(f"{path}: the manifest has no lines; give one with recordings.")
    return utterances


def _utterance(path: Path, number: int, line: str) -> Utterance:
    try:
        row: Any = json.loads(line)
        audio, text, source = row["audio"], row["text"], row.get("source", "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecipeError(
            f'{path}, line {number}: this is no {{"audio": …, "text": …}} ({error!r}); mend it.'
        ) from error
    if not all(isinstance(value, str) for value in (audio, text, source)):
        raise RecipeError(f"{path}, line {number}: audio, text and source must be strings; mend it.")
    return Utterance(path.parent / audio, normalise(text), audio, source)
