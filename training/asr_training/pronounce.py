"""Pronunciations of the words of manifests, by espeak-ng: what an intermediate layer can learn besides spelling."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from asr_runtime.errors import RecipeError
from asr_training.manifest import read_manifest

STRESS_AND_LENGTH = re.compile("[ˈˌːʲ̩\u200d]|\\([^)]*\\)")


def pronounce(manifests: list[Path], out: Path, language: str = "en-us") -> int:
    """Write the phonemes of every word in the manifests' texts to `out`; returns how many words there are.

    The phonemes are espeak-ng's, in IPA without stress and length. Raises RecipeError where espeak-ng is missing.
    """
    if shutil.which("espeak-ng") is None:
        raise RecipeError("espeak-ng is missing, which knows the pronunciations; install it, for example from Debian")
    words = sorted({word for path in manifests for u in read_manifest(path) for word in u.text.lower().split()})
    spoken = speak(words, language)
    lines = [f"{word}\t{phonemes}\n" for word, phonemes in zip(words, spoken, strict=True) if phonemes]
    part = out.with_name(out.name + ".part")
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(out)
    return len(lines)


def speak(words: list[str], language: str) -> list[str]:
    """The phonemes of each word, with spaces between."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "words.txt")
        text.write_text("".join(f"{word}.\n" for word in words), encoding="utf-8")  # a full stop ends a line
        command = ["espeak-ng", "-q", "--ipa", "--sep= ", "-v", language, "-f", str(text)]
        try:
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise RecipeError(f"espeak-ng failed ({error.stderr.strip()}); is {language} one of its voices?") from None
    lines = done.stdout.splitlines()
    if len(lines) != len(words):
        raise RecipeError(f"espeak-ng spoke {len(lines)} words, wanted {len(words)}; is each word of letters only?")
    return [" ".join(STRESS_AND_LENGTH.sub("", line).split()) for line in lines]
