"""Best-path decoding against a plain reference, with word boundaries of every kind of vocabulary."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_runtime.greedy import GreedyDecoder

CHARACTERS = (" ", "a", "b", "")


def log_probs(path: list[int], tokens: int, sure: float = 0.9) -> np.ndarray:
    probabilities = np.full((len(path), tokens), (1 - sure) / (tokens - 1), np.float32)
    probabilities[np.arange(len(path)), path] = sure
    return np.log(probabilities).reshape(len(path), tokens)


@given(st.lists(st.integers(0, 3), max_size=30))
def test_repeats_merge_and_blanks_go(path: list[int]) -> None:
    (hypothesis,) = GreedyDecoder(CHARACTERS).decode(log_probs(path, 4))
    plain = "".join(CHARACTERS[token] for token, _ in groupby(path))
    assert hypothesis.text == " ".join(plain.split())
    assert hypothesis.score == pytest.approx(len(path) * np.log(0.9), rel=1e-4)
    assert [word.text for word in hypothesis.words] == hypothesis.text.split()


def test_words_know_their_frames_and_confidences() -> None:
    #                       _  a  a  _  b  ␣  _  b  _
    (hypothesis,) = GreedyDecoder(CHARACTERS).decode(log_probs([3, 1, 1, 3, 2, 0, 3, 2, 3], 4))
    first, second = hypothesis.words
    assert (first.text, first.start, first.end) == ("ab", 1, 5)
    assert (second.text, second.start, second.end) == ("b", 7, 8)
    assert first.confidence == pytest.approx(0.81, rel=1e-4)
    assert second.confidence == pytest.approx(0.9, rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "path", "text"),
    [
        (("", "▁he", "llo", "▁you"), [1, 2, 0, 3], "hello you"),
        (("", "▁", "he", "llo"), [1, 2, 3, 1, 2], "hello he"),
        (("he", "##llo", "you", ""), [0, 1, 2], "hello you"),
        (("ha", "lo", ""), [0, 1], "halo"),
    ],
)
def test_subword_vocabularies(tokens: tuple[str, ...], path: list[int], text: str) -> None:
    decoder = GreedyDecoder(tokens, blank=tokens.index(""))
    assert decoder.decode(log_probs(path, len(tokens)))[0].text == text


def test_no_frames_give_no_text() -> None:
    (hypothesis,) = GreedyDecoder(CHARACTERS).decode(np.zeros((0, 4), np.float32))
    assert (hypothesis.text, hypothesis.words) == ("", ())
