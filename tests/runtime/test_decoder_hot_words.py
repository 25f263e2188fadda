"""Hot words: boosted when complete, taken back when not, in and out of the lexicon."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phrases import count

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import DecoderError

TOKENS = ["a", "b", " ", ""]
WORDS = ["a", "ab", "ba"]
ALL = {"beam_size": 100_000, "beam_threshold": math.inf, "token_floor": -math.inf, "repeated_spaces": True, "beta": 0.3}


def rows(cells: list[list[float]]) -> np.ndarray:
    x = np.array(cells)
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


LATTICES = st.lists(st.lists(st.floats(-6, 0, width=32), min_size=4, max_size=4), min_size=1, max_size=5).map(rows)


def texts(log_probs: np.ndarray) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=len(log_probs)):
        text = " ".join("".join(TOKENS[k] for k, _ in itertools.groupby(path)).split())
        totals[text] += math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
    return {text: math.log(p) for text, p in totals.items()}


@settings(max_examples=120, deadline=None)
@given(log_probs=LATTICES, phrase=st.sampled_from(["ab", "b", "bb", "a b", "ba a"]), boost=st.floats(-3, 6))
@pytest.mark.parametrize("penalty", [-math.inf, -1.0])
def test_equals_brute_force(log_probs: np.ndarray, phrase: str, boost: float, penalty: float) -> None:
    config = BeamConfig(**ALL, n_best=3, unknown_word_penalty=penalty, hot_words={phrase: boost})
    got = BeamSearchDecoder(TOKENS, lexicon=WORDS, config=config).decode(log_probs)
    scores = {}
    for text, acoustic in texts(log_probs).items():
        words = text.split()
        hot = set(phrase.split())
        unknown = [word for word in words if word not in WORDS]
        if penalty == -math.inf and any(word not in hot for word in unknown):
            continue
        # A word of the phrase outside the lexicon is allowed where the phrase reaches it, and has no penalty there.
        if unknown and hot & set(unknown) and len(phrase.split()) > 1:
            continue
        score = acoustic + 0.3 * len(words) + boost * count(words, phrase)
        scores[text] = score + sum(penalty for word in unknown if word not in hot)
    if scores and all(h.text in scores for h in got):
        assert got[0].score == pytest.approx(max(scores.values()), abs=2e-4)
        for hypothesis in got:
            assert hypothesis.score == pytest.approx(scores[hypothesis.text], abs=2e-4)


def spelled(text: str, others: str = "") -> np.ndarray:
    """Clear log-probabilities of a text; where `others` has another letter, that one is as likely, less a little."""
    log_probs = np.full((2 * len(text) + 1, 4), -12.0, dtype=np.float32)
    log_probs[::2, 3] = 0.0
    for i, letter in enumerate(text):
        log_probs[2 * i + 1, TOKENS.index(letter)] = -0.4
        if i < len(others) and others[i] != letter:
            log_probs[2 * i + 1, TOKENS.index(others[i])] = -1.2
    return log_probs


def test_a_phrase_outside_the_lexicon_is_found_and_only_with_its_boost() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=WORDS)
    x = spelled("a ab", "b bb")
    assert decoder.decode(x)[0].text == "a ab"
    assert decoder.decode(x, hot_words={"b bb": 4.0})[0].text == "b bb"
    assert decoder.decode_batch([x], hot_words={"b bb": 4.0})[0][0].text == "b bb"
    stream = decoder.stream(hot_words={"b bb": 4.0})
    stream.feed(x)
    assert stream.finish()[0].text == "b bb"
    assert decoder.decode(x)[0].text == "a ab"


def test_the_boost_of_an_unfinished_phrase_is_taken_back() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=WORDS)
    plain = decoder.decode(spelled("ab a"))[0]
    assert decoder.decode(spelled("ab a"), hot_words={"ab ba": 9.0})[0].score == pytest.approx(plain.score, abs=1e-4)


def test_confidence_does_not_count_the_boost() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=["a", "b"])
    x = spelled("a", "b")
    assert decoder.decode(x)[0].words[0].confidence == pytest.approx(0.69, abs=0.02)
    boosted = decoder.decode(x, hot_words={"b": 5.0})[0].words[0]
    assert (boosted.text, boosted.confidence) == ("b", pytest.approx(0.31, abs=0.02))


@pytest.mark.parametrize("bad", [{"": 1.0}, {" ": 1.0}, {"a": math.inf}, {"a": "x"}, {3: 1.0}])
def test_impossible_hot_words_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DecoderError, match="hot word"):
        BeamConfig(hot_words=bad)
    with pytest.raises(DecoderError, match="hot word"):
        BeamSearchDecoder(TOKENS).decode(spelled("a"), hot_words=bad)


@pytest.mark.parametrize(
    ("phrase", "reason"),
    [
        ("a zoo", "'a zoo' cannot be spelled with the tokens: there is none for 'z'"),
        ("Ab", "'Ab' cannot be spelled with the tokens: there is none for 'A'; write small letters"),
        ("aé", "'aé' cannot be spelled with the tokens: there is none for 'é'"),
    ],
)
def test_a_hot_word_that_the_tokens_cannot_spell_is_named_with_the_letter(phrase: str, reason: str) -> None:
    with pytest.raises(DecoderError) as error:
        BeamSearchDecoder(TOKENS).decode(spelled("a"), hot_words={phrase: 1.0})
    assert reason in str(error.value)
