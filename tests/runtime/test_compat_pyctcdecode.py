"""Code written for pyctcdecode 0.5.0 runs by changing one import: same names, same shapes of results."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr_runtime.compat import pyctcdecode_folder
from asr_runtime.compat.pyctcdecode import BeamSearchDecoderCTC, build_ctcdecoder
from asr_runtime.errors import DecoderError

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "pyctcdecode" / "golden.json").read_text())["cases"]
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
LABELS = [*LETTERS, ""]

ARPA = """\\data\\
ngram 1=9
ngram 2=2

\\1-grams:
-2.5\t<unk>\t0
0\t<s>\t-0.3
-1.1\t</s>\t0
-0.7\tthe\t-0.25
-1.2\tpath\t-0.4
-0.8\tof\t-0.1
-1.5\tduty\t0
-1.6\tvision\t0
-2.0\tunknown'\t0

\\2-grams:
-0.2\tthe path
-0.3\tof duty

\\end\\
"""


def emissions() -> list[np.ndarray]:
    """Log-probabilities [frames, 29]."""
    data = np.load(DATA / "ds_ctcdecoder" / "emissions.npz")
    return np.split(data["emissions"].astype(np.float32) / -16, np.cumsum(data["lengths"])[:-1])


def spell(text: str, labels: list[str] = LABELS) -> np.ndarray:
    """Log-probabilities [frames, labels] of which the text (of one-letter labels) is by far the likeliest reading."""
    logits = np.full((2 * len(text) + 1, len(labels)), -14.0, dtype=np.float32)
    logits[::2, labels.index("")] = 0.0
    logits[range(1, 2 * len(text), 2), [labels.index(letter) for letter in text]] = 0.0
    return logits


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text(ARPA)
    return str(path)


@pytest.mark.parametrize(("log_probs", "expected"), list(zip(emissions(), GOLDEN, strict=True)))
def test_without_a_language_model_texts_and_scores_are_those_of_the_real_one(
    log_probs: np.ndarray, expected: dict
) -> None:
    decoder = build_ctcdecoder(LABELS)
    assert decoder.decode(log_probs) == expected["text"]
    text, state, frames, acoustic_score, score = decoder.decode_beams(log_probs)[0]
    assert (text, state) == (expected["text"], None)
    assert -0.1 < acoustic_score - expected["score"] < 0.6  # ours adds up more alignments
    assert score == pytest.approx(acoustic_score, abs=1e-4)
    assert [word for word, _ in frames] == text.split()
    starts = [start for _, (start, _) in frames]
    assert np.abs(np.array(starts) - expected["starts"]).max() <= 3


def test_the_score_is_alpha_lm_beta_and_the_offset_of_unknown_words(arpa: str) -> None:
    decoder = build_ctcdecoder(LABELS, arpa, alpha=0.4, beta=1.1, unk_score_offset=-3.0)
    ((text, _, frames, acoustic_score, score), *_) = decoder.decode_beams(spell("the path zz"))
    assert text == "the path zz"
    lm = math.log(10) * (kenlm.Model(arpa).score(text) - 3.0)
    assert score == pytest.approx(acoustic_score + 0.4 * lm + 3 * 1.1, abs=1e-3)
    assert [word for word, _ in frames] == ["the", "path", "zz"]
    assert [end - start for _, (start, end) in frames] == [5, 7, 3]
    decoder.reset_params(alpha=0.0, beta=2.0, lm_score_boundary=False)
    *_, acoustic_score, score = decoder.decode_beams(spell("the path zz"))[0]
    assert score == pytest.approx(acoustic_score + 6.0, abs=1e-3)


def test_unigrams_are_the_known_words(arpa: str) -> None:
    x = spell("the path")
    x[11, [LETTERS.index("a"), LETTERS.index("o")]] = np.log([0.45, 0.55])  # "path" or "poth"
    assert build_ctcdecoder(LABELS, arpa, unigrams=["the", "path", "größe"]).decode(x) == "the path"
    assert build_ctcdecoder(LABELS, arpa, unigrams=["the", "poth", "größe"]).decode(x) == "the poth"
    with pytest.raises(ValueError, match="none of the 1 unigrams can be spelled"):
        build_ctcdecoder(LABELS, arpa, unigrams=["größe"])


def test_hot_words_count_for_themselves_also_in_phrases(arpa: str) -> None:
    decoder = build_ctcdecoder(LABELS, arpa)
    x = spell("the path")
    x[11, [LETTERS.index("a"), LETTERS.index("o")]] = np.log([0.6, 0.4])
    assert decoder.decode(x) == "the path"
    assert decoder.decode(x, hotwords=["no poth"], hotword_weight=40.0) == "the poth"
    assert decoder.decode_batch(None, [x, x], hotwords=["poth"], hotword_weight=40.0) == ["the poth"] * 2
    ((text, _, _, _, score), *_) = decoder.decode_beams(x, hotwords=["the path"], hotword_weight=3.0)
    assert (text, score) == ("the path", pytest.approx(decoder.decode_beams(x)[0][4] + 6.0, abs=1e-2))


def test_beams_come_best_first_and_within_the_prune_limit() -> None:
    decoder = build_ctcdecoder(LABELS)
    for log_probs in emissions():
        beams = decoder.decode_beams(log_probs, beam_width=20, beam_prune_logp=-4.0)
        scores = [beam[4] for beam in beams]
        assert 1 < len(beams) <= 20
        assert scores == sorted(scores, reverse=True) and scores[-1] >= scores[0] - 4.0
        assert decoder.decode(log_probs, beam_width=20, beam_prune_logp=-4.0) == beams[0][0]


def test_batches_give_what_single_calls_give(arpa: str) -> None:
    decoder = build_ctcdecoder(LABELS, arpa)
    items = emissions()
    for pool in (None, object()):
        assert decoder.decode_batch(pool, items) == [decoder.decode(item) for item in items]
        alone = [[(text, *rest) for text, _, *rest in decoder.decode_beams(item)] for item in items]
        assert decoder.decode_beams_batch(pool, items) == alone


def test_logits_log_probabilities_and_probabilities_give_the_same() -> None:
    decoder = build_ctcdecoder(LABELS)
    log_probs = emissions()[0].astype(np.float64)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    expected = decoder.decode_beams(log_probs)[0]
    for given in (log_probs + 7.5, np.exp(log_probs), log_probs.astype(np.float32), np.asfortranarray(log_probs)):
        found = decoder.decode_beams(given)[0]
        assert found[:3] == expected[:3]
        assert found[3:] == pytest.approx(expected[3:], abs=1e-2)


@pytest.mark.parametrize(
    ("labels", "normal"),
    [
        ([*LETTERS], LABELS),
        (["[PAD]", "|", "a"], ["", " ", "a"]),
        (["<pad>", " ", "a", "<unk>"], ["", " ", "a", "⁇"]),
        (["_", "|", "a"], ["", " ", "a"]),
        (["<s>", "", "|", "a"], ["<s>", "", " ", "a"]),
        (["▁the", "s", "<unk>"], ["▁the", "s", "▁⁇", ""]),
        (["the", "##s", "[PAD]", "[UNK]"], ["▁the", "s", "", "▁⁇"]),
    ],
)
def test_labels_are_read_as_pyctcdecode_does(labels: list[str], normal: list[str]) -> None:
    decoder = build_ctcdecoder(labels)
    assert decoder._labels == normal
    assert decoder.decode(np.log(np.full((3, len(normal)), 1 / len(normal)))) is not None


def test_word_pieces_make_words() -> None:
    decoder = build_ctcdecoder(["▁the", "▁path", "s", ""])
    x = np.full((5, 4), -14.0)
    x[range(5), [0, 3, 1, 3, 2]] = 0.0
    text, _, frames, *_ = decoder.decode_beams(x)[0]
    assert (text, frames) == ("the paths", [("the", (0, 1)), ("paths", (2, 5))])


def test_wav2vec2_labels_spell_with_a_bar() -> None:
    labels = ["[PAD]", "<s>", "</s>", "[UNK]", "|", *"abc"]
    x = np.full((5, 8), -14.0)
    x[range(5), [5, 4, 0, 6, 7]] = 0.0
    assert build_ctcdecoder(labels).decode(x) == "a bc"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [(["a", "a"], "two are the same"), (["▁a", " "], "space among word pieces"), ([""], "at least a blank")],
)
def test_labels_that_cannot_be_are_refused(labels: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_ctcdecoder(labels)


X = spell("the path")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x.T, r"of shape \[29, 17\]"),
        (lambda x: x[0], r"of shape \[29\]"),
        (lambda x: x[:, :28], r"labels=29\]"),
        (lambda x: np.where(np.arange(17)[:, None] == 3, np.nan, x), "frame 3 has a NaN"),
        (lambda x: np.where(np.arange(17)[:, None] == 3, np.inf, x), "frame 3 has a NaN or [+]inf"),
        (lambda x: np.where(np.arange(17)[:, None] == 3, -np.inf, x), "frame 3 has"),
        (lambda x: [[1.0], [1.0, 2.0]], "no array of numbers"),
    ],
)
def test_wrong_input_is_a_value_error_of_one_sentence(
    change: Callable, reason: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        build_ctcdecoder(LABELS).decode(change(X))
    assert isinstance(error.value, DecoderError)
    one_sentence(str(error.value))


def test_what_has_no_meaning_here_is_said(tmp_path: Path) -> None:
    decoder = build_ctcdecoder(LABELS)
    assert decoder.decode(X[:0]) == ""
    with pytest.raises(ValueError, match="lm_start_state, wanted None"):
        decoder.decode(X, lm_start_state=object())
    with pytest.raises(ValueError, match="got beam_size 0"):
        decoder.decode(X, beam_width=0)
    with pytest.raises(ValueError, match="no such file"):
        build_ctcdecoder(LABELS, str(tmp_path / "missing.arpa"))


def test_a_decoder_is_saved_and_loaded_with_its_model_and_weights(arpa: str, tmp_path: Path) -> None:
    built = build_ctcdecoder(LABELS, arpa, ["the", "path", "of", "duty"], 0.7, 2.5, -8.0, lm_score_boundary=False)
    built.save_to_dir(tmp_path / "saved")
    loaded = BeamSearchDecoderCTC.load_from_dir(tmp_path / "saved")
    for x in emissions()[:3]:
        assert loaded.decode_beams(x) == built.decode_beams(x)
    build_ctcdecoder(LABELS).save_to_dir(tmp_path / "plain")
    assert BeamSearchDecoderCTC.load_from_dir(str(tmp_path / "plain")).decode(X) == build_ctcdecoder(LABELS).decode(X)
    with pytest.raises(ValueError, match="is there already"):
        built.save_to_dir(tmp_path / "plain")


def test_what_fails_in_the_middle_leaves_room_for_another_try(arpa: str, tmp_path: Path) -> None:
    model = tmp_path / "words.arpa"
    shutil.copy(arpa, model)
    built = build_ctcdecoder(LABELS, str(model), ["the", "path"])
    model.unlink()
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the decoder cannot be saved"):
        built.save_to_dir(folder)
    shutil.copy(arpa, model)
    built.save_to_dir(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["alphabet.json", "config.json", "language_model"]
    assert BeamSearchDecoderCTC.load_from_dir(folder).decode(X) == built.decode(X)


def test_a_line_of_the_unigrams_is_one_word(arpa: str, tmp_path: Path) -> None:
    build_ctcdecoder(LABELS, arpa, ["the"]).save_to_dir(tmp_path)
    (tmp_path / "language_model" / "unigrams.txt").write_text("the\n of \n\npath duty\n")
    assert pyctcdecode_folder.read(tmp_path).unigrams == ["the", "of", "path duty"]
    read, same = BeamSearchDecoderCTC.load_from_dir(tmp_path), build_ctcdecoder(LABELS, arpa, ["the", "of"])
    x = spell("the path of duty")
    assert read.decode_beams(x) == same.decode_beams(x)


def test_a_folder_of_pyctcdecode_is_read(arpa: str, tmp_path: Path) -> None:
    labels = ["", "⁇", *LETTERS]
    model = tmp_path / "language_model"
    model.mkdir()
    shutil.copy(arpa, model / "words.arpa")
    (tmp_path / "alphabet.json").write_text(json.dumps({"labels": labels, "is_bpe": False}))
    (model / "unigrams.txt").write_text("duty\nof\npath\nthe\n")
    weights = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (model / "attrs.json").write_text(json.dumps(weights))
    (tmp_path / "preprocessor_config.json").write_text("{}")  # as hubs have beside it
    decoder = BeamSearchDecoderCTC.load_from_dir(tmp_path)
    x = spell("the path of duty", labels)
    same = build_ctcdecoder(labels, arpa, ["the", "path", "of", "duty"])
    assert decoder.decode_beams(x) == same.decode_beams(x)
    assert decoder.decode(x) == "the path of duty"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("alphabet.json", None, "alphabet.json cannot be read"),
        ("alphabet.json", "{", "it is not JSON"),
        ("alphabet.json", '{"labels": 3}', "got no labels"),
        ("language_model/attrs.json", "[]", "got no JSON object"),
        ("language_model/attrs.json", '{"alpha": "high"}', "got 'high' as alpha, wanted a number"),
        ("language_model/unigrams.txt", None, "unigrams.txt cannot be read"),
        ("language_model/words.arpa", None, "got 0 files of .arpa, .bin, .binary, wanted one"),
    ],
)
def test_a_folder_that_is_none_is_one_sentence(
    arpa: str, tmp_path: Path, name: str, content: str | None, reason: str, one_sentence: Callable[[str], None]
) -> None:
    build_ctcdecoder(LABELS, arpa, ["the"]).save_to_dir(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        BeamSearchDecoderCTC.load_from_dir(tmp_path)
    one_sentence(str(error.value))
