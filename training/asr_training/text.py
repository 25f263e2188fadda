"""Text and tokens: characters to labels and back, and error rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from asr_runtime.errors import RecipeError

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class Alphabet:
    """The characters that a model can write; the blank is the label behind the last of them."""

    characters: str

    @property
    def tokens(self) -> list[str]:
        """The characters and the blank "", in the order of the model's outputs."""
        return [*self.characters, ""]

    @property
    def blank(self) -> int:
        """The label of the blank."""
        return len(self.characters)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Each character's label."""
        return {character: label for label, character in enumerate(self.characters)}

    def unknown(self, text: str) -> str:
        """The first character of `text` that is outside the alphabet, or ""."""
        return next((character for character in text if character not in self.labels), "")

    def encode(self, text: str) -> np.ndarray:
        """Labels of a text, int64 [characters]."""
        return np.array([self.labels[character] for character in text], np.int64)

    def greedy(self, log_probs: np.ndarray) -> str:
        """The text of the best token of each frame of [frames, tokens], repeats and blanks taken out."""
        best = log_probs.argmax(1)
        changed = np.diff(best, prepend=-1) != 0
        text = "".join(self.characters[label] for label in best[changed & (best != self.blank)])
        return " ".join(text.split())


class Pronunciations:
    """Words with their phonemes; the blank is the label behind the last phoneme.

    A file of them has lines of a word, a tab and its phonemes with spaces between. Raises RecipeError for others.
    """

    def __init__(self, path: Path) -> None:
        words: dict[str, list[str]] = {}
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            raise RecipeError(
                f"there are no pronunciations at {path}; make them of the manifests with asr-train pronounce, or"
                " correct the path"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read {path} as UTF-8 text ({error}); correct [data] pronunciations") from None
        for number, line in enumerate(lines, 1):
            word, _, phonemes = line.partition("\t")
            if line.strip() and not phonemes.split():
                raise RecipeError(f"{path}, line {number}: wanted a word, a tab and its phonemes; got {line[:80]!r}")
            words[word] = phonemes.split()
        self.path = path
        self.phonemes = sorted({phoneme for word in words.values() for phoneme in word})
        labels = {phoneme: label for label, phoneme in enumerate(self.phonemes)}
        self.words = {word: [labels[phoneme] for phoneme in phonemes] for word, phonemes in words.items()}

    @property
    def blank(self) -> int:
        """The label of the blank."""
        return len(self.phonemes)

    def encode(self, text: str) -> np.ndarray:
        """Labels of the phonemes of a text, int64 [phonemes]; raises RecipeError for a word that is not there."""
        return np.array([label for word in text.split() for label in self.labels_of(word)], np.int64)

    def refuse_long_phonemes(self) -> None:
        """Raise RecipeError for a phoneme of several characters: in a text each would be a label of its own."""
        if long := next((phoneme for phoneme in self.phonemes if len(phoneme) != 1), ""):
            raise RecipeError(
                f"{self.path}: the phoneme {long!r} has {len(long)} characters, but with spoken = true each is one"
                " character of the alphabet; write another one in its place throughout the file and the alphabet"
            )

    def spell(self, text: str) -> str:
        """A text in phonemes of one character, with spaces between its words.

        Raises RecipeError for a word that is not there.
        """
        return " ".join("".join(self.phonemes[label] for label in self.labels_of(word)) for word in text.split())

    def labels_of(self, word: str) -> list[int]:
        """The labels of a word's phonemes."""
        if word not in self.words:
            raise RecipeError(
                f"the word {word!r} has no pronunciation in {self.path}; make them anew with asr-train pronounce"
            )
        return self.words[word]


def required_frames(labels: np.ndarray) -> int:
    """The fewest frames that can carry the labels: one each, and a blank between two that are the same."""
    return len(labels) + int((labels[1:] == labels[:-1]).sum())


def error_rates(hypotheses: Iterable[str], references: Iterable[str]) -> tuple[float, float]:
    """Word and character error rate over all utterances together, as shares."""
    words = characters = word_errors = character_errors = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        word_errors += Levenshtein.distance(hypothesis.split(), reference.split())
        character_errors += Levenshtein.distance(hypothesis, reference)
        words, characters = words + len(reference.split()), characters + len(reference)
    return word_errors / max(words, 1), character_errors / max(characters, 1)


def rate_interval(errors: npt.ArrayLike, lengths: npt.ArrayLike) -> tuple[float, float]:
    """The 95 % interval of an error rate, as shares, by drawing utterances again (Bisani and Ney 2004).

    `errors` and `lengths` count each utterance's, [utterances]; the same each time.
    """
    counts = np.stack([np.asarray(errors), np.asarray(lengths)], axis=1)
    random, share, rates = np.random.default_rng(0), np.full(len(counts), 1 / len(counts)), []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        # How often each utterance is drawn, [resamples, utterances].
        wrong, of = (random.multinomial(len(counts), share, RESAMPLES_AT_ONCE) @ counts).T
        rates.append(wrong / np.maximum(1, of))
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    return float(low), float(high)
