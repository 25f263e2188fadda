"""With repeated_spaces=False only alignments with one space between words count, as brute force shows."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder

TOKENS = ["a", "b", " ", ""]
WORDS = ["a", "b", "ab", "ba", "aab"]
ALL = {"beam_size": 100_000, "beam_threshold": math.inf, "token_floor": -math.inf, "beta": 0.5, "n_best": 100_000}


def texts_with_single_spaces(log_probs: np.ndarray) -> dict[str, float]:
    """Every text of known words with its score, a space at its end left out."""
    totals: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=len(log_probs)):
        spelled = "".join(TOKENS[k] for k, _ in itertools.groupby(path))
        if "  " in spelled or spelled.startswith(" "):
            continue
        words = spelled.removesuffix(" ").split(" ") if spelled else []
        if all(word in WORDS for word in words):
            totals[" ".join(words)] += math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
    return {text: math.log(p) + 0.5 * len(text.split()) for text, p in totals.items()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-6, 0, width=32), min_size=4, max_size=4), min_size=1, max_size=6))
def test_equals_brute_force(rows: list[list[float]]) -> None:
    logits = np.array(rows)
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    decoder = BeamSearchDecoder(TOKENS, lexicon=WORDS, config=BeamConfig(**ALL, repeated_spaces=False))
    found = {h.text: h.score for h in decoder.decode(log_probs)}
    assert found == pytest.approx(texts_with_single_spaces(log_probs), abs=2e-4)


def test_spaces_are_pauses_where_they_may_repeat() -> None:
    log_probs = np.full((5, 4), -20.0, dtype=np.float32)
    log_probs[range(5), [0, 2, 3, 2, 1]] = 0.0  # a, space, blank, space, b
    lenient, strict = (
        BeamSearchDecoder(TOKENS, lexicon=WORDS, config=BeamConfig(repeated_spaces=repeated))
        for repeated in (True, False)
    )
    assert strict.config == BeamConfig()
    assert lenient.decode(log_probs)[0].score == pytest.approx(2 * lenient.config.beta, abs=1e-3)
    assert strict.decode(log_probs)[0].score < -15
