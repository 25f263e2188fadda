"""What words may be made of, and what a language model may count: pieces, bare letters; and every KenLM binary."""

import itertools
import math
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import kenlm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder

LN10 = math.log(10)
ALL = {"beam_size": 100_000, "beam_threshold": math.inf, "token_floor": -math.inf}
WORDS = """\\data\\
ngram 1=7
ngram 2=4
ngram 3=2

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.3
-1.1\t</s>\t0
-0.7\ta\t-0.25
-0.9\tb\t-0.4
-1.3\tab\t-0.1
-1.0\tba\t-0.2

\\2-grams:
-0.4\t<s> a\t-0.15
-0.8\ta b\t-0.3
-0.2\tb ab\t-0.05
-0.6\tab a\t0

\\3-grams:
-0.1\t<s> a b
-0.2\ta b ab

\\end\\
"""
LETTERS = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.3
-1.1\t</s>\t0
-0.5\ta\t-0.25
-0.8\tb\t-0.4
-0.6\t<space>\t-0.1

\\2-grams:
-0.2\ta b
-0.4\tb <space>
-0.3\t<space> a
-0.9\t<s> b

\\end\\
"""
PIECES = {
    "sentencepiece": ["▁a", "▁b", "a", "b", ""],
    "wordpiece": ["a", "b", "##a", "##b", ""],
    "bar": ["a", "b", "|", ""],
}
KINDS = {  # of KenLM's binaries, by arguments of build_binary
    "probing": ["probing"],
    "trie": ["trie"],
    "quantised": ["-q", "8", "-b", "8", "trie"],
    "array": ["-a", "64", "trie"],
    "quantised array": ["-q", "8", "-b", "8", "-a", "64", "trie"],
}


def write(folder: Path, arpa: str) -> Path:
    (folder / "lm.arpa").write_text(arpa)
    return folder / "lm.arpa"


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("words"), WORDS)


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("letters"), LETTERS)


def lattice(seed: int, frames: int, tokens: int) -> np.ndarray:
    """Log-probabilities [frames, tokens]."""
    rows = np.random.default_rng(seed).dirichlet([0.7] * tokens, size=frames)
    return np.log(rows + 1e-6).clip(max=0).astype(np.float32)


def text_probabilities(log_probs: np.ndarray, tokens: list[str]) -> dict[str, float]:
    """Every text with ln P_CTC, by going through every alignment."""
    pieces = "##a" in tokens
    totals: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(len(tokens)), repeat=len(log_probs)):
        said = [tokens[k] for k, _ in itertools.groupby(path) if tokens[k]]
        if pieces:
            said = [token[2:] if token.startswith("##") else f" {token}" for token in said]
        text = " ".join("".join(said).replace("▁", " ").replace("|", " ").split())
        totals[text] += math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
    return {text: math.log(p) for text, p in totals.items()}


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(PIECES)), seed=st.integers(0, 1000), frames=st.integers(1, 5), look_ahead=st.booleans()
)
def test_words_of_pieces_equal_brute_force(words: Path, kind: str, seed: int, frames: int, look_ahead: bool) -> None:
    tokens, model = PIECES[kind], kenlm.Model(str(words))
    config = BeamConfig(**ALL, alpha=0.8, beta=0.4, look_ahead=look_ahead, n_best=3, repeated_spaces=True)
    log_probs = lattice(seed, frames, len(tokens))
    expected = {
        text: acoustic + 0.4 * len(text.split()) + 0.8 * LN10 * model.score(text)
        for text, acoustic in text_probabilities(log_probs, tokens).items()
        if all(word in ("a", "b", "ab", "ba") for word in text.split())
    }
    found = BeamSearchDecoder(tokens, language_model=words, config=config).decode(log_probs)
    for hypothesis, score in zip(found, sorted(expected.values(), reverse=True), strict=False):
        assert hypothesis.score == pytest.approx(score, abs=2e-4)
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=2e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), frames=st.integers(1, 5))
def test_a_language_model_of_letters_equals_brute_force(letters: Path, seed: int, frames: int) -> None:
    tokens, model = ["a", "b", " ", ""], kenlm.Model(str(letters))
    config = BeamConfig(**ALL, alpha=0.8, beta=0.4, n_best=3, repeated_spaces=True)
    log_probs = lattice(seed, frames, len(tokens))
    expected = {}
    for text, acoustic in text_probabilities(log_probs, tokens).items():
        units = " ".join("<space>" if letter == " " else letter for letter in text)
        expected[text] = acoustic + 0.4 * len(text.split()) + 0.8 * LN10 * model.score(units)
    found = BeamSearchDecoder(tokens, language_model=letters, config=config).decode(log_probs)
    for hypothesis, score in zip(found, sorted(expected.values(), reverse=True), strict=False):
        assert hypothesis.score == pytest.approx(score, abs=2e-4)
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=2e-4)


@pytest.mark.skipif(shutil.which("build_binary") is None, reason="KenLM's build_binary is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_every_binary_gives_what_its_arpa_gives(words: Path, tmp_path: Path, kind: str) -> None:
    binary = tmp_path / "lm.binary"
    subprocess.run(["build_binary", *KINDS[kind], words, binary], check=True, capture_output=True)
    tokens = ["a", "b", " ", ""]
    decoders = [BeamSearchDecoder(tokens, language_model=path) for path in (words, binary)]
    for seed in range(20):
        expected, got = (decoder.decode(lattice(seed, 40, 4))[0] for decoder in decoders)
        assert got.text == expected.text
        assert got.score == pytest.approx(expected.score, abs=1e-3)


def test_what_is_spelled_in_several_ways_is_one_text_with_the_weight_of_all() -> None:
    tokens = ["▁a", "b", "▁ab", ""]
    p = np.float32([[0.45, 0, 0.55, 0], [0, 0.3, 0, 0.7], [0, 0, 0, 1], [0.8, 0, 0, 0.2]])
    log_probs = np.log(p + 1e-9).clip(max=0)
    alike = 0.45 * 0.3 + 0.55 * 0.7  # "▁a b" and "▁ab"
    for n_best in (1, 2):  # merged while the search goes on, or at its end
        config = BeamConfig(beta=0, n_best=n_best)
        found = BeamSearchDecoder(tokens, lexicon=["a", "ab"], config=config).decode(log_probs)
        assert found[0].text == "ab a"
        assert found[0].score == pytest.approx(math.log(alike * 0.8), abs=1e-3)
        assert len({hypothesis.text for hypothesis in found}) == n_best


def test_the_weight_of_all_spellings_holds_in_long_texts() -> None:
    tokens = ["▁a", "b", "▁ab", ""]
    syllable = np.float32([[0.45, 0, 0.55, 0], [0, 0.3, 0, 0.7], [0, 0, 0, 1]])
    decoder = BeamSearchDecoder(tokens, lexicon=["a", "ab"], config=BeamConfig(beta=0))
    score = math.log(0.45 * 0.3 + 0.55 * 0.7)  # of "ab", by "▁a b" and "▁ab"
    for words in (1, 10, 300):
        best = decoder.decode(np.log(np.tile(syllable, (words, 1)) + 1e-9).clip(max=0))[0]
        assert best.text == " ".join(["ab"] * words)
        assert best.score == pytest.approx(words * score, abs=1e-2 * words)


@pytest.mark.parametrize("tokens", [["a", "b", " ", ""], ["b", "a", " ", ""]])
def test_equal_scores_rank_by_token_ids(tokens: list[str]) -> None:
    log_probs = np.log(np.float32([[0.5, 0.5, 1e-9, 1e-9]] * 2)).clip(max=0)
    decoder = BeamSearchDecoder(tokens, config=BeamConfig(beta=0, n_best=4, token_floor=-3))
    found = decoder.decode(log_probs)
    first, second = tokens[:2]
    assert [hypothesis.text for hypothesis in found] == [first, second, first + second, second + first]
    assert found[0].score == found[1].score > found[2].score == found[3].score
    assert decoder.decode_batch([log_probs] * 3, threads=2) == [found] * 3
