"""Code written for ds_ctcdecoder 0.9.3 runs by changing one import: same names, same results, and no crashes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_runtime.compat.ds_ctcdecoder import (
    Alphabet,
    Scorer,
    ctc_beam_search_decoder,
    ctc_beam_search_decoder_batch,
)
from asr_runtime.errors import DecoderError

DATA = Path(__file__).parent / "data" / "ds_ctcdecoder"
GOLDEN = json.loads((DATA / "golden.json").read_text())["cases"]


def utterances() -> list[np.ndarray]:
    """Probabilities [time, 29] of the utterances whose results the golden file holds."""
    data = np.load(DATA / "emissions.npz")
    probs = np.exp(data["emissions"] / -16.0)
    probs /= probs.sum(axis=1, keepdims=True)
    return np.split(probs, np.cumsum(data["lengths"])[:-1])


@pytest.fixture(scope="module")
def alphabet() -> Alphabet:
    return Alphabet(str(DATA / "alphabet.txt"))


@pytest.fixture(scope="module")
def scorer(alphabet: Alphabet) -> Scorer:
    return Scorer(0.75, 1.85, str(DATA / "small.scorer"), alphabet)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["settings"]))
def test_best_texts_and_scores_are_those_of_the_real_one(alphabet: Alphabet, scorer: Scorer, case: dict) -> None:
    settings = dict(case["settings"])
    settings["scorer"] = scorer if settings["scorer"] else None
    for probs, expected in zip(utterances(), case["results"], strict=True):
        found = ctc_beam_search_decoder(probs, alphabet, num_results=3, **settings)
        assert [type(part) for part in found[0]] == [float, str]
        best_score = expected[0][0]
        assert found[0][1] in {text.rstrip() for score, text in expected if score > best_score - 1e-3}
        # Other alignments fall out of the two beams, and ours adds up a text and the same text with a space behind it.
        assert found[0][0] == pytest.approx(best_score, abs=0.5)
        assert [score for score, _ in found] == sorted((score for score, _ in found), reverse=True)


def test_without_a_scorer_all_results_are_those_of_the_real_one(alphabet: Alphabet) -> None:
    (case,) = (case for case in GOLDEN if not case["settings"]["scorer"] and "cutoff_prob" not in case["settings"])
    for probs, expected in zip(utterances(), case["results"], strict=True):
        found = ctc_beam_search_decoder(probs, alphabet, 100, num_results=3)
        assert [text for _, text in found] == [text for _, text in expected]
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=2e-3)


def test_a_batch_gives_what_single_calls_give(alphabet: Alphabet, scorer: Scorer) -> None:
    items = utterances()
    lengths = [len(item) for item in items]
    padded = np.zeros((len(items), max(lengths), 29))
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    alone = [ctc_beam_search_decoder(item, alphabet, 50, scorer=scorer, num_results=2) for item in items]
    for given in (padded, padded.tolist(), items):
        found = ctc_beam_search_decoder_batch(given, lengths, alphabet, 50, 2, scorer=scorer, num_results=2)
        assert found == alone


def test_it_takes_lists_and_any_float_and_no_frames(alphabet: Alphabet, scorer: Scorer) -> None:
    probs = utterances()[0]
    best = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer)[0][1]
    for given in (probs.tolist(), probs.astype(np.float32), np.asfortranarray(probs), np.repeat(probs, 2, 0)[::2]):
        assert ctc_beam_search_decoder(given, alphabet, 50, scorer=scorer)[0][1] == best
    for empty in (probs[:0], [], np.eye(29)[[28, 28]]):
        assert ctc_beam_search_decoder(empty, alphabet, 50, scorer=scorer) == [(0.0, "")]


def test_a_cutoff_that_leaves_no_word_a_way_to_go_on_loses_a_word_and_not_the_rest(
    alphabet: Alphabet, scorer: Scorer
) -> None:
    text = "yet it qqq was the vision"
    probs = np.full((2 * len(text), 29), 1e-6)
    probs[1::2, 28] = 1
    probs[range(0, 2 * len(text), 2), alphabet.Encode(text)] = 1
    probs /= probs.sum(axis=1, keepdims=True)
    score, found = ctc_beam_search_decoder(probs, alphabet, 50, cutoff_prob=0.99, scorer=scorer)[0]
    assert found.startswith("yet it") and found.endswith("was the vision")
    assert -200 < score < 0


def test_weights_may_be_reset(alphabet: Alphabet) -> None:
    scorer = Scorer(alpha=0.75, beta=1.85, scorer_path=str(DATA / "small.scorer"), alphabet=alphabet)
    probs = utterances()[4]
    before = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer)
    scorer.reset_params(0.1, -12.0)
    assert (scorer.alpha, scorer.beta) == (0.1, -12.0)
    after = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer)
    assert len(after[0][1].split()) < len(before[0][1].split())
    scorer.reset_params(0.75, 1.85)
    assert ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer) == before


def test_hot_words_count_with_alpha_where_they_stand(alphabet: Alphabet, scorer: Scorer) -> None:
    probs = utterances()[0]
    ((score, text),) = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer)
    for hot_words in ({"vision": 4.0}, {b"vision": 4.0}):
        found = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer, hot_words=hot_words)
        assert found == [(pytest.approx(score + 0.75 * 4.0, abs=0.05), text)]
    ((_, changed),) = ctc_beam_search_decoder(probs, alphabet, 50, scorer=scorer, hot_words={"vision": -100.0})
    assert "vision" in text and "vision" not in changed
    with pytest.warns(UserWarning, match="without a scorer"):
        ctc_beam_search_decoder(probs, alphabet, 50, hot_words={"vision": 4.0})


def test_the_alphabet_encodes_and_decodes(tmp_path: Path, alphabet: Alphabet) -> None:
    assert (alphabet.GetSize(), alphabet.GetSpaceLabel(), alphabet.IsSpace(0)) == (28, 0, True)
    assert alphabet.Encode("a b") == [1, 0, 2]
    assert alphabet.Decode([1, 0, 2]) == "a b"
    assert (alphabet.CanEncode("abc"), alphabet.CanEncode("ABC"), alphabet.CanEncodeSingle("é")) == (True, False, False)
    assert (alphabet.EncodeSingle("b"), alphabet.DecodeSingle(2)) == (2, "b")
    for call in (lambda: alphabet.Encode("é"), lambda: alphabet.DecodeSingle(28), lambda: alphabet.Decode([-1])):
        with pytest.raises(ValueError, match="wanted"):
            call()
    (tmp_path / "alphabet.txt").write_bytes("# comment\r\n\\#\r\né\r\n \r\n\r\n".encode())
    other = Alphabet(tmp_path / "alphabet.txt")
    assert (other.labels, other.GetSpaceLabel(), other.Decode([0, 2, 1])) == (("#", "é", " "), 2, "# é")


PROBS = utterances()[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.T, r"of shape \[29, 125\]"),
        (lambda p: p[0], r"of shape \[29\]"),
        (lambda p: p[:, :28], r"wanted \[time, classes=29\]"),
        (lambda p: np.log(p), "of log-probabilities take np.exp"),
        (lambda p: p * 100, "of logits the softmax"),
        (lambda p: np.where(np.arange(len(p))[:, None] == 7, np.nan, p), "frame 7 has a NaN"),
        (lambda p: np.where(np.arange(len(p))[:, None] == 7, np.inf, p), "wanted probabilities"),
        (lambda p: [[1.0], [1.0, 2.0]], "no array of numbers"),
        (lambda p: "probabilities", "no array of numbers"),
    ],
)
def test_wrong_input_is_a_value_error_of_one_sentence(
    alphabet: Alphabet, change: Callable, reason: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        ctc_beam_search_decoder(change(PROBS), alphabet, 50)
    assert isinstance(error.value, DecoderError)
    one_sentence(str(error.value))


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 0},
        {"beam_size": -1},
        {"cutoff_prob": 0.0},
        {"cutoff_prob": 1.5},
        {"cutoff_top_n": 0},
        {"num_results": 0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(alphabet: Alphabet, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"got {next(iter(settings))} .*, wanted"):
        ctc_beam_search_decoder(PROBS, alphabet, **{"beam_size": 50, **settings})


def test_wrong_batches_are_refused(alphabet: Alphabet) -> None:
    with pytest.raises(ValueError, match="got 1 lengths for 2 utterances"):
        ctc_beam_search_decoder_batch([PROBS, PROBS], [3], alphabet, 50, 1)
    with pytest.raises(ValueError, match="item 1 has 125 frames and the length 126"):
        ctc_beam_search_decoder_batch([PROBS, PROBS], [3, 126], alphabet, 50, 1)
    with pytest.raises(ValueError, match="got threads 0"):
        ctc_beam_search_decoder_batch([PROBS], [3], alphabet, 50, 0)


def test_files_and_alphabets_that_do_not_fit_are_refused(tmp_path: Path, alphabet: Alphabet, scorer: Scorer) -> None:
    (tmp_path / "digits.txt").write_text(" \n1\n2\n")
    digits = Alphabet(tmp_path / "digits.txt")
    with pytest.raises(ValueError, match="made for another alphabet"):
        Scorer(1.0, 1.0, DATA / "small.scorer", digits)
    with pytest.raises(ValueError, match="another alphabet"):
        ctc_beam_search_decoder(PROBS[:, :4], digits, 50, scorer=scorer)
    with pytest.raises(ValueError, match="no such file"):
        Scorer(1.0, 1.0, tmp_path / "missing.scorer", alphabet)
    with pytest.raises(ValueError, match="No such file"):
        Alphabet(tmp_path / "missing.txt")
    (tmp_path / "twice.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="names a character twice"):
        Alphabet(tmp_path / "twice.txt")
