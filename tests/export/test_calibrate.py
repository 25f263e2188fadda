"""The line that makes confidences honest: found where it is known, absent where nothing can be told."""

import numpy as np
import pytest

from asr_export.calibrate import LEAST_SHARE, apply, calibrate, expected_error, fit, right_words
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, Hypothesis, Word


def hypothesis(words: list[tuple[str, float]]) -> Hypothesis:
    return Hypothesis(" ".join(word for word, _ in words), 0, 0, 0, [Word(word, 0, 1, sure) for word, sure in words])


def boastful(count: int, seed: int) -> tuple[list[Hypothesis], list[str]]:
    """Texts of ten words that are right as often as a line through the log odds of their confidences says."""
    rng = np.random.default_rng(seed)
    heard, texts = [], []
    for _ in range(count):
        sure = rng.uniform(0.1, 0.99, 10)
        right = rng.random(10) < apply(sure, 0.5, -0.6)
        texts.append(" ".join(f"w{i}" for i in range(10)))
        heard.append(
            hypothesis([(f"w{i}" if ok else "x", s) for i, (s, ok) in enumerate(zip(sure, right, strict=True))])
        )
    return heard, texts


def test_a_known_line_is_found_and_holds_on_other_recordings() -> None:
    found = calibrate(*boastful(400, 0))
    assert found is not None
    assert (found.scale, found.offset) == (pytest.approx(0.5, abs=0.08), pytest.approx(-0.6, abs=0.08))
    assert found.before > 0.15
    assert found.after < 0.04
    assert found.settings == {"confidence_scale": found.scale, "confidence_offset": found.offset}
    BeamConfig(**found.settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("sure", "said"), [(0.9, "a"), (0.9, "b")], ids=["always right", "always wrong"])
def test_nothing_is_claimed_where_all_words_are_alike(sure: float, said: str) -> None:
    assert calibrate([hypothesis([("a", sure)])] * 500, [said] * 500) is None


def test_nothing_is_claimed_from_a_few_words_or_from_confidences_upside_down() -> None:
    assert calibrate([], []) is None
    assert calibrate(*boastful(10, 0)) is None
    upside = [hypothesis([("a", 0.9), ("b", 0.2)])] * 300
    assert calibrate(upside, ["x b"] * 300) is None


def test_separable_confidences_give_finite_numbers() -> None:
    scale, offset = fit(np.array([0.2] * 100 + [0.9] * 100), np.array([0.0] * 100 + [1.0] * 100))
    assert 0 < scale < 20 and abs(offset) < 20


def test_right_words_are_those_of_the_alignment() -> None:
    assert right_words("the cat sat", hypothesis([("a", 1), ("cat", 1), ("sat", 1), ("up", 1)])).tolist() == [
        0,
        1,
        1,
        0,
    ]


def test_the_expected_error_is_its_definition() -> None:
    assert expected_error(np.array([0.95] * 4), np.array([1.0, 0, 1, 0])) == pytest.approx(0.45)


def test_the_decoder_applies_the_same_line_and_keeps_the_text() -> None:
    x = np.log(np.array([[0.6, 0.3, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05], [0.2, 0.7, 0.05, 0.05]], np.float32))
    plain = BeamSearchDecoder(["a", "b", " ", ""]).decode(x)[0]
    config = BeamConfig(confidence_scale=0.5, confidence_offset=-0.6)
    told = BeamSearchDecoder(["a", "b", " ", ""], config=config).decode(x)[0]
    assert (told.text, told.score) == (plain.text, plain.score)
    before = np.array([word.confidence for word in plain.words])
    assert [word.confidence for word in told.words] == pytest.approx(apply(before, 0.5, -0.6), abs=1e-6)


@pytest.mark.parametrize("rival", [0.4, 0.05, LEAST_SHARE * 1.5, LEAST_SHARE / 2])
def test_the_decoder_and_the_fit_have_one_least_share(rival: float) -> None:
    x = np.log(np.array([[1 - rival - 2e-9, rival, 1e-9, 1e-9]]))
    line = {"confidence_scale": 1.7, "confidence_offset": 0.4}
    plain, told = (
        [word.confidence for each in decoder.decode(x) for word in each.words]
        for decoder in (
            BeamSearchDecoder(["a", "b", " ", ""], config=BeamConfig(n_best=2, **settings)) for settings in ({}, line)
        )
    )
    assert plain == pytest.approx([1 - rival, rival], abs=1e-6)
    assert told == pytest.approx(apply(np.array(plain), 1.7, 0.4), abs=1e-6)
