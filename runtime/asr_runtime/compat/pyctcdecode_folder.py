"""The folders in which pyctcdecode 0.5.0 saves decoders, as models on hubs have them.

``alphabet.json`` has the labels; ``language_model/``, where there is one, a KenLM file, ``unigrams.txt`` with a word a
line and ``attrs.json`` with the weights.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_runtime.compat import CompatError

ALPHABET, LANGUAGE_MODEL, WEIGHTS, UNIGRAMS = "alphabet.json", "language_model", "attrs.json", "unigrams.txt"
KENLM = (".arpa", ".bin", ".binary")  # how a KenLM file's name ends
THEIR_UNKNOWN, OUR_UNKNOWN = "▁⁇▁", "▁⁇"


@dataclass(frozen=True)
class Saved:
    """A decoder on disk; without `kenlm_model_path` the rest but the labels counts for nothing."""

    labels: Sequence[str]
    kenlm_model_path: Path | None = None
    unigrams: Collection[str] | None = None
    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    lm_score_boundary: bool = True


def read(folder: Path, unigram_encoding: str | None = None) -> Saved:
    """What a folder holds; raises CompatError where it is none of pyctcdecode's."""
    alphabet = _json(folder / ALPHABET)
    labels = alphabet.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CompatError(f"{folder / ALPHABET}: got no labels, wanted a list of strings under 'labels'")
    labels = [OUR_UNKNOWN if label == THEIR_UNKNOWN else label for label in labels]
    place = folder / LANGUAGE_MODEL
    if not place.is_dir():
        return Saved(labels)
    weights = _json(place / WEIGHTS)
    try:
        words = (place / UNIGRAMS).read_text(encoding=unigram_encoding or "utf-8").splitlines()
    except (OSError, UnicodeError, LookupError) as error:
        raise CompatError(f"{place / UNIGRAMS} cannot be read ({error}); wanted a word a line") from None
    models = sorted(path for path in place.iterdir() if path.suffix in KENLM and not path.name.startswith("."))
    if len(models) != 1:
        raise CompatError(f"{place}: got {len(models)} files of {', '.join(KENLM)}, wanted one, the language model")
    return Saved(
        labels,
        models[0],
        [word for word in map(str.strip, words) if word] or None,
        **{name: _number(place / WEIGHTS, weights, name) for name in ("alpha", "beta", "unk_score_offset")},
        lm_score_boundary=weights.get("score_boundary", True) is not False,
    )


def write(folder: Path, saved: Saved) -> None:
    """Save a decoder where none is yet; the language model is copied. Raises CompatError where it cannot be."""
    model = saved.kenlm_model_path
    if model is not None and model.suffix not in KENLM:
        raise CompatError(
            f"got the language model {model.name}, wanted a name in {', '.join(KENLM)}, as pyctcdecode does"
        )
    for name in (ALPHABET, LANGUAGE_MODEL):
        if (folder / name).exists():
            raise CompatError(f"{folder / name} is there already; remove it, or give another folder")
    labels = [THEIR_UNKNOWN if label == OUR_UNKNOWN else label for label in saved.labels]
    pieces = any(label.startswith("▁") for label in labels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that what fails in the middle leaves nothing that refuses the next try.
        with tempfile.TemporaryDirectory(prefix=".saving.", dir=folder) as name:
            begun = Path(name)
            (begun / ALPHABET).write_text(json.dumps({"labels": labels, "is_bpe": pieces}))
            if model is not None:
                _write_model(begun / LANGUAGE_MODEL, model, saved)
                (begun / LANGUAGE_MODEL).rename(folder / LANGUAGE_MODEL)
            (begun / ALPHABET).rename(folder / ALPHABET)
    except OSError as error:
        raise CompatError(f"{folder}: the decoder cannot be saved ({error.strerror}); give another folder") from None


def _write_model(place: Path, model: Path, saved: Saved) -> None:
    place.mkdir()
    shutil.copyfile(model, place / model.name)
    names = {"alpha": saved.alpha, "beta": saved.beta, "unk_score_offset": saved.unk_score_offset}
    (place / WEIGHTS).write_text(json.dumps({**names, "score_boundary": saved.lm_score_boundary}))
    words = sorted(set(saved.unigrams or ()))
    (place / UNIGRAMS).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise CompatError(f"{path} cannot be read ({reason}); wanted a folder that pyctcdecode saved") from None
    if not isinstance(found, dict):
        raise CompatError(f"{path}: got no JSON object; wanted a folder that pyctcdecode saved")
    return found


def _number(path: Path, weights: dict[str, Any], name: str) -> float:
    value = weights.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CompatError(f"{path}: got {value!r:.40} as {name}, wanted a number")
    return float(value)
