"""What the decoder does with input that is unusual or wrong: the right answer or one typed sentence."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import DecoderError

TOKENS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", ""]


def spell(text: str, tokens: list[str] = TOKENS) -> np.ndarray:
    """Log-probabilities [frames, tokens] in which the text is by far the likeliest, a blank after each token."""
    log_probs = np.full((2 * len(text) + 1, len(tokens)), -20.0, dtype=np.float32)
    log_probs[:, tokens.index("")] = -5.0
    log_probs[::2, tokens.index("")] = 0.0
    for i, letter in enumerate(text):
        log_probs[2 * i + 1, tokens.index(letter)] = -0.01
    return log_probs


@pytest.fixture(scope="module")
def decoder() -> BeamSearchDecoder:
    return BeamSearchDecoder(TOKENS, lexicon=["hello", "world"])


X = spell("hello world")


@pytest.mark.parametrize(
    "given",
    [X.astype(np.float64), X.astype(np.float16), np.asfortranarray(X), X.tolist(), np.repeat(X, 2, axis=1)[:, ::2]],
    ids=["float64", "float16", "fortran", "list", "strided"],
)
def test_any_layout_gives_the_text(decoder: BeamSearchDecoder, given: np.ndarray) -> None:
    assert decoder.decode(given)[0].text == "hello world"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x[0], "got log-probabilities of shape [29], wanted [frames, tokens=29]"),
        (lambda x: x[:, :28], "of shape [23, 28], wanted [frames, tokens=29]"),
        (lambda x: np.pad(x, ((0, 0), (0, 3))), "of shape [23, 32]"),
        (lambda x: x.T, "transposed"),
        (lambda x: np.where(np.arange(23)[:, None] == 7, np.nan, x), "frame 7 has a NaN"),
        (lambda x: np.where(np.arange(23)[:, None] == 7, np.inf, x), "frame 7 has +inf"),
        (lambda x: np.where(np.arange(23)[:, None] == 7, -np.inf, x), "frame 7 is all -inf"),
        (lambda x: np.exp(x), "look like probabilities"),
        (lambda x: x + 7.5, "log_softmax"),
        (lambda x: x.astype(np.int64), "floating-point"),
        (lambda x: [[1.0, 2.0], [3.0]], "not an array of numbers"),
    ],
    ids=["rank", "narrow", "wide", "transposed", "nan", "inf", "-inf", "probabilities", "logits", "integers", "ragged"],
)
def test_wrong_input_is_one_sentence(
    decoder: BeamSearchDecoder, change: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    with pytest.raises(DecoderError) as error:
        decoder.decode(change(X))
    assert sentence in str(error.value)
    with pytest.raises(DecoderError, match="item 1: "):
        decoder.decode_batch([X, change(X)])
    stream = decoder.stream()
    stream.feed(X[:9])
    with pytest.raises(DecoderError):
        stream.feed(change(X))
    stream.feed(X[9:])
    assert stream.finish()[0].text == "hello world"


def test_no_frames_is_an_empty_text(decoder: BeamSearchDecoder) -> None:
    (best,) = decoder.decode(X[:0])
    assert (best.text, best.words, best.score) == ("", (), 0.0)
    assert decoder.decode_batch([]) == []


def test_a_frame_without_an_allowed_token_does_not_end_the_text(decoder: BeamSearchDecoder) -> None:
    log_probs = X.copy()
    log_probs[4] = -np.inf
    log_probs[4, TOKENS.index("x")] = 0.0  # no word has an x here, and nothing else is possible
    assert decoder.decode(log_probs)[0].text == "hello world"


def test_a_space_may_come_first_last_and_twice(decoder: BeamSearchDecoder) -> None:
    assert decoder.decode(spell("  hello   world "))[0].text == "hello world"


def test_an_unfinished_word_is_left_out_of_a_closed_vocabulary() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=["hello", "world"], config=BeamConfig(beam_size=1))
    assert decoder.decode(spell("hello wor"))[0].text == "hello"


def test_unknown_words_are_spelled_when_they_are_allowed() -> None:
    decoder = BeamSearchDecoder(TOKENS, lexicon=["hello"], config=BeamConfig(unknown_word_penalty=-3))
    assert decoder.decode(spell("hello zyx"))[0].text == "hello zyx"


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 0},
        {"beam_size": -1},
        {"beam_size": 2.5},
        {"n_best": 0},
        {"beam_threshold": 0},
        {"token_floor": 1},
        {"alpha": -1},
        {"alpha": math.nan},
        {"beta": math.inf},
        {"beta": 800.0},
        {"unknown_word_penalty": 800.0},
        {"unknown_word_penalty": math.inf},
        {"alpha": "1"},
        {"alpha": True},
        {"alpha": 10**400},
        {"token_floor": -(10**400)},
        {"end_of_sentence": "no"},
        {"look_ahead": 7},
        {"repeated_spaces": None},
        {"confidence_scale": 0.0},
        {"confidence_offset": math.nan},
        {"hot_words": 3},
        {"hot_words": "cat"},
        {"hot_words": None},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(DecoderError, match=f"got {next(iter(settings))} .*, wanted"):
        BeamConfig(**settings)


@pytest.mark.parametrize(
    "hot_words", [{"\ud800": 1.0}, {3: 1.0}, {"cat": 10**400}, {"cat": 800.0}, {"cat": True}], ids=ascii
)
def test_impossible_hot_words_are_refused(hot_words: dict[str, float]) -> None:
    with pytest.raises(DecoderError, match="hot word"):
        BeamConfig(hot_words=hot_words)


@pytest.mark.parametrize(
    ("tokens", "blank", "sentence"),
    [
        (["a", "a", ""], -1, "'a' stands at 0 and at 1"),
        (["a"], -1, "at least a blank"),
        (["", "a", ""], -1, "2 empty tokens"),
        (["a", "b"], 7, "got blank 7"),
        (["a", "\ud800", ""], -1, "surrogate"),
    ],
)
def test_impossible_tokens_are_refused(tokens: list[str], blank: int, sentence: str) -> None:
    with pytest.raises(DecoderError, match=sentence):
        BeamSearchDecoder(tokens, blank=blank)


def test_the_blank_is_the_empty_token_or_the_given_column() -> None:
    assert BeamSearchDecoder(["", "a", "b"]).decode(np.log([[0.1, 0.8, 0.1]]))[0].text == "a"
    assert BeamSearchDecoder(["_", "a", "b"], blank=0).decode(np.log([[0.1, 0.8, 0.1]]))[0].text == "a"
    assert BeamSearchDecoder(["a", "b", "c"], blank=-1).decode(np.log([[0.1, 0.8, 0.1]]))[0].text == "b"


@pytest.mark.parametrize("name", ["<blank>", "<blk>", "<ctc>", "<eps>", "<epsilon>", "<pad>", "[PAD]"])
def test_a_name_that_only_a_blank_has_is_enough(name: str) -> None:
    assert BeamSearchDecoder([name, "a", "b"]).decode(np.log([[0.1, 0.8, 0.1]]))[0].text == "a"


@pytest.mark.parametrize(
    "tokens", [["a", "b"], ["<pad>", "a", "<blank>"], *([name, "a"] for name in ("_", "<b>", "blank", "[blank]"))]
)
def test_no_column_is_taken_for_the_blank_in_silence(tokens: list[str]) -> None:
    with pytest.raises(DecoderError, match=r"none of them '', the blank; name its column: blank=N"):
        BeamSearchDecoder(tokens)


def test_lexicon_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecoderError, match="'größe' cannot be spelled"):
        BeamSearchDecoder(TOKENS, lexicon=["hello", "größe"])
    with pytest.raises(DecoderError, match="no words"):
        BeamSearchDecoder(TOKENS, lexicon=[])
    with pytest.raises(DecoderError, match=r"missing\.txt.*No such file"):
        BeamSearchDecoder(TOKENS, lexicon=tmp_path / "missing.txt")
    (tmp_path / "latin1.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(DecoderError, match="not UTF-8"):
        BeamSearchDecoder(TOKENS, lexicon=tmp_path / "latin1.txt")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"\\data\\\n", b"\\data\\\nngram 1=99999999999\nngram 2=5\n", b"\x00" * 5000],
    ids=["empty", "text", "cut", "huge", "zeros"],
)
def test_a_file_that_is_no_language_model_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lm.bin"
    path.write_bytes(content)
    with pytest.raises(DecoderError, match=r"lm\.bin"):
        BeamSearchDecoder(TOKENS, language_model=path)
    with pytest.raises(DecoderError, match="no such file"):
        BeamSearchDecoder(TOKENS, language_model=tmp_path / "missing")


@pytest.mark.parametrize("alpha", [100, 1e3, 1e6, 1e300])
@pytest.mark.parametrize("text", ["", "cat", "cut", "ca", "cat cut"])
def test_weights_beyond_a_double_still_end_in_a_text(arpa: Path, alpha: float, text: str) -> None:
    """Every ending's weight is exp(alpha * ln P_LM), which a double cannot hold."""
    for penalty in (-math.inf, -1e4):
        config = BeamConfig(alpha=alpha, beta=0, unknown_word_penalty=penalty, n_best=3)
        decoder = BeamSearchDecoder(TOKENS, language_model=arpa, config=config)
        assert decoder.decode(spell(text))
        stream = decoder.stream()
        stream.feed(spell(text))
        assert not math.isnan(stream.partial().score)
        assert not any(math.isnan(result.score) for result in stream.finish())


def test_the_greatest_bonuses_together_still_give_a_text() -> None:
    config = BeamConfig(beta=150, unknown_word_penalty=150, hot_words={"zyx": 150})
    decoder = BeamSearchDecoder(TOKENS, lexicon=["hello"], config=config)
    best = decoder.decode(spell("hello zyx"))[0]
    assert math.isfinite(best.score)
    assert best.text.endswith("zyx")


def test_many_equal_weights_leave_room_for_heavier_ones() -> None:
    flat = np.full((3, 29), -4.0, dtype=np.float32)
    flat[:, TOKENS.index("")] = -0.3
    log_probs = np.concatenate([flat, spell("cut"), flat])
    assert BeamSearchDecoder(TOKENS, config=BeamConfig(beam_size=8)).decode(log_probs)[0].text == "cut"


def test_settings_may_be_given_by_their_names() -> None:
    decoder = BeamSearchDecoder(["a", ""], config=BeamConfig(beam_size=5, n_best=2), beam_size=7)
    assert decoder.config == BeamConfig(beam_size=7, n_best=2)
    assert repr(decoder) == "<BeamSearchDecoder: 2 tokens, no language model, beam 7>"
    with pytest.raises(DecoderError, match="the beam search has no setting 'beam_width'; it has alpha, beam_size"):
        BeamSearchDecoder(["a", ""], beam_width=7)


def test_a_configuration_of_another_type_is_refused() -> None:
    with pytest.raises(DecoderError, match=r"wanted a BeamConfig, like BeamConfig\(alpha=0.8\)"):
        BeamSearchDecoder(["a", ""], config={"beam_size": 5})  # type: ignore[arg-type]
