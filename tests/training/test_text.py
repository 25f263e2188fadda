from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_training.text import Alphabet, error_rates, required_frames

ALPHABET = Alphabet("' abc")
TEXTS = st.text(ALPHABET.characters, max_size=12)


def aligned(text: str, repeats: int) -> np.ndarray:
    """Log-probabilities whose best path spells `text`, each label `repeats` frames long, blanks between repeats."""
    labels = [part for label in ALPHABET.encode(text) for part in [*[int(label)] * repeats, ALPHABET.blank]]
    log_probs = np.full((len(labels), len(ALPHABET.tokens)), -5.0, np.float32)
    log_probs[np.arange(len(labels)), labels] = 0
    return log_probs


def test_the_blank_is_the_last_token() -> None:
    assert ALPHABET.tokens == ["'", " ", "a", "b", "c", ""]
    assert ALPHABET.blank == 5


@given(TEXTS, st.integers(1, 3))
def test_greedy_decoding_gives_the_words_back(text: str, repeats: int) -> None:
    assert ALPHABET.greedy(aligned(text, repeats)) == " ".join(text.split())


@given(TEXTS)
def test_required_frames_is_one_a_label_and_one_a_repeat(text: str) -> None:
    labels = ALPHABET.encode(text)
    assert required_frames(labels) == len(text) + sum(a == b for a, b in itertools.pairwise(text))


def test_unknown_characters_are_named() -> None:
    assert ALPHABET.unknown("abc") == ""
    assert ALPHABET.unknown("abçx") == "ç"


def test_error_rates_are_over_all_utterances_together() -> None:
    wer, cer = error_rates(["the cat", "a"], ["the cat sat", "b c d"])
    assert wer == pytest.approx(4 / 6)
    assert cer == pytest.approx(9 / 16)
