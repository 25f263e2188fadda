"""Words that are heard as phonemes: homophones, several pronunciations, hot words by how they sound."""

import itertools
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import kenlm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phrases import count

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import DecoderError

TOKENS = ["T", "UW", "AH", " ", ""]
LEXICON = {"two": ["T UW"], "to": ["T UW", "T"], "too": ["T UW"], "uh": "AH", "ah": ["AH", "AH UW"], "oot": "UW T"}
SAID = {word: [sounds] if isinstance(sounds, str) else list(sounds) for word, sounds in LEXICON.items()}
LN10 = math.log(10)
ALL = {"beam_size": 100_000, "beam_threshold": math.inf, "token_floor": -math.inf, "repeated_spaces": True}

ARPA = """\\data\\
ngram 1=8
ngram 2=4

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.3
-1.1\t</s>\t0
-0.7\tto\t-0.25
-0.9\ttwo\t-0.4
-1.0\tuh\t-0.2
-1.6\toot\t0
-1.6\tsilent\t0

\\2-grams:
-0.4\t<s> to
-0.8\tto two
-0.2\ttwo uh
-0.5\ttwo </s>

\\end\\
"""


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text(ARPA)  # neither "too" nor "ah"
    return str(path)


def rows(cells: list[list[float]]) -> np.ndarray:
    x = np.array(cells, np.float64)
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


def lattices(longest: int) -> st.SearchStrategy[np.ndarray]:
    cell = st.floats(-6, 0, width=32)
    return st.lists(st.lists(cell, min_size=5, max_size=5), min_size=1, max_size=longest).map(rows)


def texts(log_probs: np.ndarray) -> dict[str, float]:
    """Every text of the lexicon's words with ln P_CTC, by going through every alignment."""
    by_sound = defaultdict(list)
    for word, sounds in SAID.items():
        for sound in sounds:
            by_sound[sound].append(word)
    totals: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(5), repeat=len(log_probs)):
        collapsed = [TOKENS[k] for k, _ in itertools.groupby(path) if k != 4]
        parts = [" ".join(part).strip() for space, part in itertools.groupby(collapsed, " ".__eq__) if not space]
        weight = math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
        for words in itertools.product(*(by_sound[part] for part in parts)):
            totals[" ".join(words)] += weight
    return {text: math.log(p) for text, p in totals.items()}


def expected(log_probs: np.ndarray, config: BeamConfig, lm: str | None) -> dict[str, float]:
    model = kenlm.Model(lm) if lm else None
    scores = {}
    for text, acoustic in texts(log_probs).items():
        words = text.split()
        score = acoustic + config.beta * len(words)
        score += sum(boost * count(words, phrase) for phrase, boost in config.hot_words.items())
        if model:
            score += config.alpha * LN10 * model.score(text, bos=True, eos=config.end_of_sentence)
        scores[text] = score
    return scores


def check(log_probs: np.ndarray, config: BeamConfig, lm: str | None) -> None:
    got = BeamSearchDecoder(TOKENS, language_model=lm, lexicon=LEXICON, config=config).decode(log_probs)
    scores = expected(log_probs, config, lm)
    best = sorted(scores.values(), reverse=True)
    if not scores:  # no alignment is a whole text
        return
    assert len(got) == min(config.n_best, len(scores))
    assert len({hypothesis.text for hypothesis in got}) == len(got)
    for hypothesis, score in zip(got, best, strict=False):
        assert hypothesis.score == pytest.approx(score, abs=2e-4)
        assert hypothesis.score == pytest.approx(scores[hypothesis.text], abs=2e-4)
        assert hypothesis.text == " ".join(word.text for word in hypothesis.words)
        assert all(0 <= word.start < word.end <= len(log_probs) for word in hypothesis.words)
        assert all(0 <= word.confidence <= 1 + 1e-6 for word in hypothesis.words)


@settings(max_examples=60, deadline=None)
@given(log_probs=lattices(5), beta=st.floats(-1, 2), n_best=st.integers(1, 6))
def test_without_lm_equals_brute_force(log_probs: np.ndarray, beta: float, n_best: int) -> None:
    check(log_probs, BeamConfig(**ALL, beta=beta, n_best=n_best), None)


@settings(max_examples=60, deadline=None)
@given(
    log_probs=lattices(5),
    alpha=st.floats(0, 2),
    look_ahead=st.booleans(),
    end=st.booleans(),
    n_best=st.integers(1, 6),
)
def test_with_lm_equals_brute_force(
    arpa: str, log_probs: np.ndarray, alpha: float, look_ahead: bool, end: bool, n_best: int
) -> None:
    config = BeamConfig(**ALL, alpha=alpha, beta=0.4, look_ahead=look_ahead, end_of_sentence=end, n_best=n_best)
    check(log_probs, config, arpa)


@settings(max_examples=60, deadline=None)
@given(
    log_probs=lattices(5),
    phrase=st.sampled_from(["two", "too", "ah", "to two", "uh to", "oot"]),
    boost=st.floats(-2, 5),
    with_lm=st.booleans(),
)
def test_hot_words_equal_brute_force(
    arpa: str, log_probs: np.ndarray, phrase: str, boost: float, with_lm: bool
) -> None:
    config = BeamConfig(**ALL, beta=0.3, n_best=4, hot_words={phrase: boost})
    check(log_probs, config, arpa if with_lm else None)


@settings(max_examples=30, deadline=None)
@given(log_probs=lattices(30), cuts=st.lists(st.integers(0, 30), max_size=5), n_best=st.integers(1, 3))
def test_any_cuts_of_a_stream_give_what_decode_gives(
    arpa: str, log_probs: np.ndarray, cuts: list[int], n_best: int
) -> None:
    config = BeamConfig(beam_size=12, n_best=n_best, hot_words={"zoo=too uh": 1.0})
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON, config=config)
    stream = decoder.stream()
    for piece in np.split(log_probs, sorted(cuts)):
        stream.feed(piece)
        assert {word.text for word in stream.partial().words} <= {*LEXICON, "zoo"}
    assert stream.finish() == decoder.decode(log_probs)
    assert decoder.decode_batch([log_probs] * 4, threads=3) == [stream.finish()] * 4


def said(sounds: str, tokens: list[str] = TOKENS) -> np.ndarray:
    """Log-probabilities in which tokens (words apart by |) are by far the likeliest, a blank after each."""
    boundary = " " if " " in tokens else "|"
    parts = [boundary if token == "|" else token for token in sounds.split()]
    log_probs = np.full((2 * len(parts) + 1, len(tokens)), -20.0, dtype=np.float32)
    log_probs[::2, tokens.index("")] = -1e-3
    for i, token in enumerate(parts):
        log_probs[2 * i + 1, tokens.index(token)] = -1e-3
    return log_probs


def test_the_language_model_decides_between_homophones(arpa: str) -> None:
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON)
    assert decoder.decode(said("T UW | T UW"))[0].text == "to two"
    best = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON, config=BeamConfig(n_best=3))
    readings = [hypothesis.text for hypothesis in best.decode(said("T UW | T UW"))]
    assert readings[0] == "to two" and len(set(readings)) == 3


def test_without_a_language_model_homophones_rank_by_the_lexicon() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=LEXICON)
    best = decoder.decode(said("T UW | AH"))[0]
    assert best.text == "two uh"
    assert [word.confidence for word in best.words] == [pytest.approx(1 / 3, abs=0.02), pytest.approx(1 / 2, abs=0.02)]
    several = BeamSearchDecoder(TOKENS, lexicon=LEXICON, config=BeamConfig(n_best=6))
    readings = [hypothesis.text for hypothesis in several.decode(said("T UW | AH"))]
    assert readings == ["two uh", "two ah", "to uh", "to ah", "too uh", "too ah"]


@pytest.mark.parametrize("n_best", [1, 2])
def test_confidences_are_shared_among_homophones(arpa: str, n_best: int) -> None:
    config = BeamConfig(alpha=1.0, beta=0.0, end_of_sentence=False, n_best=n_best)
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON, config=config)
    model = kenlm.Model(arpa)
    share = {word: 10 ** model.score(word, eos=False) for word in ("two", "to", "too")}
    best = decoder.decode(said("T UW"))[0]
    assert best.text == "to"
    assert best.words[0].confidence == pytest.approx(share["to"] / sum(share.values()), abs=1e-3)


@pytest.mark.parametrize("behind", [0.1, 0.45, 0.55, 0.9])
@pytest.mark.parametrize("n_best", [1, 3])
def test_a_space_at_the_end_leaves_confidences_of_homophones_alone(behind: float, n_best: int) -> None:
    log_probs = said("T UW |")[:-1]
    log_probs[-1, [TOKENS.index(" "), TOKENS.index("")]] = np.log([behind, 1 - behind])
    decoder = BeamSearchDecoder(TOKENS, lexicon=LEXICON, config=BeamConfig(n_best=n_best))
    for hypothesis in decoder.decode(log_probs):
        assert [word.confidence for word in hypothesis.words] == [pytest.approx(1 / 3, abs=1e-3)]


@pytest.mark.parametrize("behind", [0.1, 0.45, 0.55, 0.9])
def test_a_space_at_the_end_leaves_what_the_language_model_says_alone(arpa: str, behind: float) -> None:
    log_probs = said("T UW |")[:-1]
    log_probs[-1, [TOKENS.index(" "), TOKENS.index("")]] = np.log([behind, 1 - behind])
    config = BeamConfig(alpha=1.0, beta=0.0, end_of_sentence=False)
    best = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON, config=config).decode(log_probs)[0]
    model = kenlm.Model(arpa)
    share = {word: 10 ** model.score(word, eos=False) for word in ("two", "to", "too")}
    assert best.words[0].confidence == pytest.approx(share["to"] / sum(share.values()), abs=0.02)


def test_a_partial_text_has_finished_words_only() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=LEXICON)
    stream = decoder.stream()
    stream.feed(said("T UW"))
    assert stream.partial().text == ""
    stream.feed(said("| AH"))
    assert stream.partial().text == "two"
    assert stream.finish()[0].text == "two uh"


def test_a_file_has_the_same_words_and_may_say_a_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    lines = [f"{word}\t{sound}\n" for word, sounds in SAID.items() for sound in sounds]
    path.write_text("".join(["\ufeff", *lines, "\n", *lines]), encoding="utf-8")
    x = said("T | T UW | AH UW")
    assert BeamSearchDecoder(TOKENS, lexicon=path).decode(x) == BeamSearchDecoder(TOKENS, lexicon=LEXICON).decode(x)
    assert BeamSearchDecoder(TOKENS, lexicon=path).decode(x)[0].text == "to two ah"


def test_more_tokens_than_bits_in_a_mask() -> None:
    tokens = [*(f"P{i}" for i in range(70)), "|", ""]
    lexicon = {f"w{i}": f"P{i} P{(i * 7 + 3) % 70} P{(i + 33) % 70}" for i in range(70)}
    decoder = BeamSearchDecoder(tokens, lexicon=lexicon)
    assert decoder.decode(said("P0 P3 P33 | P37 P52 P0", tokens))[0].text == "w0 w37"


def test_a_hot_word_chooses_its_homophone_and_not_the_others(arpa: str) -> None:
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON)
    x = said("T UW | T UW")
    assert decoder.decode(x, hot_words={"too": 9.0})[0].text == "too too"
    assert decoder.decode(x, hot_words={"two to": 9.0})[0].text == "two to"
    plain = decoder.decode(x)[0]
    assert decoder.decode(x, hot_words={"oot uh": 9.0})[0].score == pytest.approx(plain.score, abs=1e-4)


def test_a_hot_word_may_say_how_it_sounds(arpa: str) -> None:
    decoder = BeamSearchDecoder(TOKENS, language_model=arpa, lexicon=LEXICON)
    assert decoder.decode(said("T UW AH | T"))[0].text != "zoo to"
    assert decoder.decode(said("T UW AH | T"), hot_words={"zoo=too uh": 4.0})[0].text == "zoo to"
    assert decoder.decode(said("T UW AH UW"), hot_words={"zoo = too ah": 4.0})[0].text == "zoo"  # ah, said otherwise
    phrases = {"zoo=too uh": 1.0, "zoo two": 9.0}
    assert decoder.decode(said("T UW AH | T UW"), hot_words=phrases)[0].text == "zoo two"
    assert decoder.decode(said("T UW"), hot_words={"silent=too": 9.0})[0].text == "silent"  # one that the model knows


@pytest.mark.parametrize(
    ("phrase", "sentence"),
    [
        ("zoo", "has no pronunciation for 'zoo'; say how it sounds in words of the lexicon: 'zoo=WORDS'"),
        ("two zoo", "has no pronunciation for 'zoo'"),
        ("two To", "has no pronunciation for 'To'; the lexicon writes it 'to'"),
        ("zoo=too zebra", "sounds like 'zebra', which has no pronunciation in the lexicon"),
        ("zoo=", "wanted one word before '='"),
        ("the zoo=too", "wanted one word before '='"),
        ("zoo=" + "to " * 9, "too many pronunciations"),
    ],
)
def test_a_hot_word_without_a_pronunciation_is_one_sentence(phrase: str, sentence: str) -> None:
    with pytest.raises(DecoderError, match="hot word") as error:
        BeamSearchDecoder(TOKENS, lexicon=LEXICON).decode(said("T"), hot_words={phrase: 1.0})
    assert sentence in str(error.value)


def test_only_pronunciations_let_a_hot_word_say_how_it_sounds() -> None:
    with pytest.raises(DecoderError, match="only a lexicon with pronunciations"):
        BeamSearchDecoder(["a", " ", ""], lexicon=["a"]).decode(rows([[0, 0, 0]]), hot_words={"b=a": 1.0})


@pytest.mark.parametrize(
    ("lexicon", "sentence"),
    [
        ("two\tT UW\nuh\n", "line 2 of the lexicon has no tab"),
        ("two\tT UW\n\nuh\tAH OH\n", "line 3 of the lexicon has the token 'OH' for 'uh'"),
        ("two\t\n", "line 1 of the lexicon has no tokens for 'two'"),
        ("\tT\n", "line 1 of the lexicon has 0 words before its tab"),
        ("ice cream\tT\n", "line 1 of the lexicon has 2 words before its tab"),
    ],
)
def test_lexicon_faults_are_named(tmp_path: Path, lexicon: str, sentence: str) -> None:
    (tmp_path / "words.txt").write_text(lexicon)
    with pytest.raises(DecoderError) as error:
        BeamSearchDecoder(TOKENS, lexicon=tmp_path / "words.txt")
    assert sentence in str(error.value)


def test_impossible_pronunciations_are_refused() -> None:
    with pytest.raises(DecoderError, match="wanted its tokens"):
        BeamSearchDecoder(TOKENS, lexicon={"two": []})
    with pytest.raises(DecoderError, match="no word boundary"):
        BeamSearchDecoder(["T", "UW", ""], lexicon={"two": "T UW"})
    with pytest.raises(DecoderError, match="unknown_word_penalty"):
        BeamSearchDecoder(TOKENS, lexicon=LEXICON, config=BeamConfig(unknown_word_penalty=-3))


# In a process of its own: a peak of memory never goes down.
LONG = """
import resource, numpy as np
from asr_runtime import BeamSearchDecoder
random = np.random.default_rng(0)
stream = BeamSearchDecoder(
    [*"abcdefgh", " ", ""], lexicon={word: word.lower() for word in "ABCDEFGH"}, beam_size=200, beam_threshold=40
).stream()
for _ in range(100):
    log_probs = random.normal(size=(1000, 10))
    log_probs[::2, 8] += 20
    log_probs[1::2, 8] -= 20
    log_probs[:, 9] -= 20
    stream.feed(log_probs - np.logaddexp.reduce(log_probs, 1, keepdims=True))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
words = len(stream.finish()[0].words)
print(words, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what was freed")
def test_the_texts_of_a_long_recording_share_what_they_begin_with() -> None:
    ended = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=60, check=True)
    words, megabytes = map(int, ended.stdout.split())
    assert words == 50_000
    assert megabytes < 8  # 4, and 12 where each text had all of its words
