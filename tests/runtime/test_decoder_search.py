"""The search equals brute force over all alignments, on lattices small enough to enumerate."""

import itertools
import math
from collections import defaultdict
from functools import cache
from pathlib import Path

import kenlm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder

TOKENS = ["a", "b", " ", ""]
WORDS = ["a", "b", "ab", "ba", "aab"]
LN10 = math.log(10)
ALL = {"beam_size": 100_000, "beam_threshold": math.inf, "token_floor": -math.inf, "repeated_spaces": True}

ARPA = """\\data\\
ngram 1=8
ngram 2=6
ngram 3=2

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.3
-1.1\t</s>\t0
-0.7\ta\t-0.25
-0.9\tb\t-0.4
-1.3\tab\t-0.1
-1.0\tba\t-0.2
-1.6\taab\t0

\\2-grams:
-0.4\t<s> a\t-0.15
-0.8\ta b\t-0.3
-0.2\tb ab\t-0.05
-0.6\tab a\t0
-0.5\ta </s>\t0
-0.3\tba ba\t-0.2

\\3-grams:
-0.1\t<s> a b
-0.2\ta b ab

\\end\\
"""


@cache
def language_model(folder: Path) -> tuple[str, kenlm.Model]:
    path = folder / "words.arpa"
    path.write_text(ARPA)
    return str(path), kenlm.Model(str(path))


@pytest.fixture(scope="session")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, kenlm.Model]:
    return language_model(tmp_path_factory.mktemp("lm"))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


def lattices(tokens: int, longest: int = 5) -> st.SearchStrategy[np.ndarray]:
    cell = st.floats(-6, 0, width=32)
    rows = st.lists(st.lists(cell, min_size=tokens, max_size=tokens), min_size=1, max_size=longest)
    return rows.map(lambda r: log_softmax(np.array(r, dtype=np.float64)))


def text_probabilities(log_probs: np.ndarray, tokens: list[str]) -> dict[str, float]:
    """Every text with ln P_CTC, by going through every alignment."""
    totals: dict[str, float] = defaultdict(float)
    blank = tokens.index("")
    for path in itertools.product(range(len(tokens)), repeat=len(log_probs)):
        collapsed = [k for k, _ in itertools.groupby(path) if k != blank]
        text = " ".join("".join(tokens[k] for k in collapsed).split())
        totals[text] += math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
    return {text: math.log(p) for text, p in totals.items()}


def ranking(
    log_probs: np.ndarray, model: kenlm.Model | None, config: BeamConfig, lexicon: list[str] | None
) -> list[tuple[float, str]]:
    scored = []
    for text, acoustic in text_probabilities(log_probs, TOKENS).items():
        words = text.split()
        unknown = sum(word not in lexicon for word in words) if lexicon else 0
        if unknown and config.unknown_word_penalty == -math.inf:
            continue
        score = acoustic + config.beta * len(words) + (config.unknown_word_penalty * unknown if unknown else 0)
        if model:
            score += config.alpha * LN10 * model.score(text, bos=True, eos=config.end_of_sentence)
        scored.append((score, text))
    return sorted(scored, key=lambda pair: -pair[0])


def check(decoder: BeamSearchDecoder, log_probs: np.ndarray, expected: list[tuple[float, str]]) -> None:
    got = decoder.decode(log_probs)
    wanted = expected[: len(got)]
    assert len(got) == min(decoder.config.n_best, len(expected))
    for hypothesis, (score, _) in zip(got, wanted, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=2e-4)
        assert hypothesis.score == pytest.approx({t: s for s, t in expected}[hypothesis.text], abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(log_probs=lattices(4), beta=st.floats(-2, 2), n_best=st.integers(1, 5))
def test_without_lm_equals_brute_force(log_probs: np.ndarray, beta: float, n_best: int) -> None:
    config = BeamConfig(**ALL, beta=beta, n_best=n_best)
    check(BeamSearchDecoder(TOKENS, config=config), log_probs, ranking(log_probs, None, config, None))


@settings(max_examples=60, deadline=None)
@given(log_probs=lattices(4), penalty=st.sampled_from([-math.inf, -3.0, 0.5]))
def test_with_lexicon_equals_brute_force(log_probs: np.ndarray, penalty: float) -> None:
    config = BeamConfig(**ALL, beta=0.7, n_best=4, unknown_word_penalty=penalty)
    decoder = BeamSearchDecoder(TOKENS, lexicon=WORDS, config=config)
    check(decoder, log_probs, ranking(log_probs, None, config, WORDS))


@settings(max_examples=150, deadline=None)
@given(
    log_probs=lattices(4),
    alpha=st.floats(0, 2),
    penalty=st.sampled_from([-math.inf, -3.0, 0.5]),
    look_ahead=st.booleans(),
    end=st.booleans(),
    n_best=st.integers(1, 4),
)
def test_with_lm_equals_brute_force(
    arpa: tuple[str, kenlm.Model],
    log_probs: np.ndarray,
    alpha: float,
    penalty: float,
    look_ahead: bool,
    end: bool,
    n_best: int,
) -> None:
    config = BeamConfig(
        **ALL,
        alpha=alpha,
        beta=0.4,
        unknown_word_penalty=penalty,
        look_ahead=look_ahead,
        end_of_sentence=end,
        n_best=n_best,
    )
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa[0], config=config)
    check(decoder, log_probs, ranking(log_probs, arpa[1], config, WORDS))


@settings(max_examples=60, deadline=None)
@given(log_probs=lattices(4, longest=30), cuts=st.lists(st.integers(0, 30), max_size=5), beam=st.integers(1, 20))
def test_any_cuts_of_a_stream_give_what_decode_gives(
    arpa: tuple[str, kenlm.Model], log_probs: np.ndarray, cuts: list[int], beam: int
) -> None:
    config = BeamConfig(beam_size=beam, n_best=3, unknown_word_penalty=-2.0)
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa[0], config=config)
    stream = decoder.stream()
    for piece in np.split(log_probs, sorted(cuts)):
        stream.feed(piece)
        stream.partial()
    assert stream.finish() == decoder.decode(log_probs)


@settings(max_examples=60, deadline=None)
@given(log_probs=lattices(4, longest=20), beam=st.integers(1, 10), penalty=st.sampled_from([-math.inf, -2.0]))
def test_scores_add_up_and_words_follow_each_other(
    arpa: tuple[str, kenlm.Model], log_probs: np.ndarray, beam: int, penalty: float
) -> None:
    config = BeamConfig(beam_size=beam, alpha=0.8, beta=0.5, unknown_word_penalty=penalty)
    best = BeamSearchDecoder(TOKENS, language_model=arpa[0], config=config).decode(log_probs)[0]
    unknown = sum(word.text not in WORDS for word in best.words)
    parts = best.acoustic_score + 0.8 * best.lm_score + 0.5 * len(best.words)
    assert best.score == pytest.approx(parts + (penalty * unknown if unknown else 0), abs=1e-3)
    assert best.lm_score == pytest.approx(LN10 * arpa[1].score(best.text), abs=1e-3)
    assert best.text == " ".join(word.text for word in best.words)
    edges = [edge for word in best.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(0 <= word.start < word.end <= len(log_probs) and 0 <= word.confidence <= 1 for word in best.words)


def test_a_batch_on_threads_gives_what_decode_gives(arpa: tuple[str, kenlm.Model]) -> None:
    rng = np.random.default_rng(0)
    batch = [log_softmax(rng.normal(size=(int(n), 4)) * 3) for n in rng.integers(0, 60, size=40)]
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa[0], config=BeamConfig(n_best=2, unknown_word_penalty=-1.0))
    alone = [decoder.decode(item) for item in batch]
    for threads in (1, 2, 5):
        assert decoder.decode_batch(batch, threads=threads) == alone


@pytest.mark.parametrize("n_best", [1, 2])
def test_a_merged_rival_of_an_earlier_word_lowers_that_word_alone(n_best: int) -> None:
    p = np.array([[0.6, 0.4, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]) + 1e-6
    best = BeamSearchDecoder(["▁a", "▁b", "▁c", ""], config=BeamConfig(n_best=n_best)).decode(np.log(p))[0]
    assert [word.confidence for word in best.words] == [pytest.approx(0.6, abs=1e-4), pytest.approx(1, abs=1e-4)]


def test_what_a_hot_word_holds_is_in_no_confidence() -> None:
    stream = BeamSearchDecoder(["a", "b", "c", " ", ""], config=BeamConfig(hot_words={"ab": 5.0})).stream()
    stream.feed(np.log(np.array([[0.5, 0, 0.5, 0, 0]]) + 1e-6))
    word = stream.partial().words[0]
    assert (word.text, word.confidence) == ("a", pytest.approx(0.5, abs=1e-3))
