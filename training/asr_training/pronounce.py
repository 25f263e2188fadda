"""Pronunciations of words, by espeak-ng: what a model or an intermediate layer of it can learn besides spelling.

English has the phonemes of ARPAbet in their one-letter code, 39 of them, so that a text in phonemes is a text like any
other and a phoneme a character of the alphabet; other languages have espeak-ng's own, in IPA.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from asr_runtime.errors import RecipeError
from asr_training.manifest import read_manifest
from asr_training.text_file import write_whole

STRESS_AND_LENGTH = re.compile("[ˈˌːʲ̩\u200d]|\\([^)]*\\)")

# IPA as espeak-ng writes it for American English to ARPAbet's one-letter code. Schwa and the vowel of "cup" are one
# (A), as are the vowel of "bird" and its weak form (R), which has the r, and flap, glottal stop and t; "hoarse" has the
# vowel of "horse".
ARPABET = {
    "ɑ": "a",
    "æ": "@",
    "ʌ": "A",
    "ə": "A",
    "ɐ": "A",
    "ɔ": "c",
    "aʊ": "W",
    "aɪ": "Y",
    "ɛ": "E",
    "ɚ": "R",
    "ɜ": "R",
    "ɚɹ": "R",
    "ɜɹ": "R",
    "oɹ": "cr",
    "eɪ": "e",
    "ɪ": "I",
    "ᵻ": "I",
    "i": "i",
    "oʊ": "o",
    "o": "o",
    "ɔɪ": "O",
    "ʊ": "U",
    "u": "u",
    "a": "a",
    "e": "e",
    "b": "b",
    "tʃ": "C",
    "d": "d",
    "ð": "D",
    "f": "f",
    "ɡ": "g",
    "h": "h",
    "dʒ": "J",
    "k": "k",
    "l": "l",
    "m": "m",
    "n": "n",
    "ŋ": "G",
    "p": "p",
    "ɹ": "r",
    "r": "r",
    "s": "s",
    "ʃ": "S",
    "t": "t",
    "ɾ": "t",
    "ʔ": "t",
    "θ": "T",
    "v": "v",
    "w": "w",
    "j": "y",
    "z": "z",
    "ʒ": "Z",
    "x": "k",
    "ɬ": "l",
    "ɲ": "ny",
    "ɒ": "a",
    "y": "u",
    "ø": "R",
}
IPA = re.compile("|".join(sorted(ARPABET, key=len, reverse=True)) + "|.")
REDUCED = {"a": "A"}  # spoken as a word of its own it is the letter's name


def pronounce(texts: list[Path], out: Path, language: str = "en-us") -> int:
    """Write the phonemes of every word in `texts` to `out`; returns how many words there are.

    A text is a manifest (.jsonl) or words with spaces and line ends between. A word with a sound that the language has
    no letter for is left out. Raises RecipeError where espeak-ng is missing.
    """
    if shutil.which("espeak-ng") is None:
        raise RecipeError("espeak-ng is missing, which knows the pronunciations; install it, for example from Debian")
    words = sorted({word for path in texts for word in words_of(path)})
    spoken = speak(words, language)
    if language.startswith("en"):
        spoken = [" ".join(REDUCED.get(word) or arpabet(ipa)) for word, ipa in zip(words, spoken, strict=True)]
    lines = [f"{word}\t{phonemes}\n" for word, phonemes in zip(words, spoken, strict=True) if phonemes]
    write_whole(out, "".join(lines))
    return len(lines)


def words_of(path: Path) -> list[str]:
    """The words of a manifest's texts, or of a text, in lower case."""
    if path.suffix == ".jsonl":
        return [word for utterance in read_manifest(path) for word in utterance.text.lower().split()]
    try:
        return path.read_text(encoding="utf-8").lower().split()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path} as UTF-8 text ({error}); give a manifest (.jsonl) or words") from None


def arpabet(ipa: str) -> str:
    """Phonemes in IPA as ARPAbet's letters, one a phoneme; "" where one has none."""
    letters = [ARPABET.get(sound, "") for sound in IPA.findall(ipa.replace(" ", ""))]
    return "".join(letters) if all(letters) else ""


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
