"""Code written for ds_ctcdecoder and pyctcdecode runs on our decoder; `.scorer` packages load."""

import base64
import math
import struct
import zlib
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr_runtime.compat import ds_ctcdecoder
from asr_runtime.compat.pyctcdecode import build_ctcdecoder
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import DecoderError
from asr_runtime.scorer_package import read_scorer

LABELS = [" ", "a", "b"]
WORDS = ["a", "ab", "ba"]
ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.3
-1\t</s>\t0
-0.6\ta\t-0.2
-0.9\tab\t-0.1
-0.7\tba\t0

\\2-grams:
-0.2\t<s> ab
-0.4\ta ba

\\end\\
"""


# The same as a KenLM trie without its words, as packages hold it: build_binary -v trie.
BINARY = zlib.decompress(
    base64.b85decode(
        "c-qU&O)OBz$yLZGDJihh*U!#KO-##7%}LQq&d=3P&QD2INXswEO)OC;OD!tS%+FIW<zhg9274f}pAks>2Lg}?BUFY7Odhajg7QJ)"
        "Y$$RNzzU@c>J;}{wv{pnW@lf%BreYW<6`i?O|AQqxN^RKtSx?!eZPve`=7SxK_smQKn_6SGt8Pfb02~&x&Q1LA2>fPEe*&&vlq$j"
        "`#}WEy~f7ID0~JiZbb%}X=$HU&YXFZ9a#_nQgA|N"
    )
)


def automaton(words: list[str], labels: list[str]) -> bytes:
    """An OpenFST const automaton of the words as a plain trie, each word ending in the space."""
    arcs: list[dict[int, int]] = [{}]
    final = set()
    for word in words:
        state = 0
        for letter in word + " ":
            label = labels.index(letter) + 1
            if label not in arcs[state]:
                arcs[state][label] = len(arcs)
                arcs.append({})
            state = arcs[state][label]
        final.add(state)
    out = struct.pack("<i", 2125659606)
    for name in (b"const", b"standard"):
        out += struct.pack("<i", len(name)) + name
    out += struct.pack("<iiQqqq", 2, 0, 0, 0, len(arcs), sum(map(len, arcs)))
    first = 0
    for state, leaving in enumerate(arcs):
        out += struct.pack("<fIIII", 0.0 if state in final else math.inf, first, len(leaving), 0, 0)
        first += len(leaving)
    for leaving in arcs:
        for label, target in leaving.items():
            out += struct.pack("<iifi", label, label, 0.0, target)
    return out


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture(scope="module")
def log_probs() -> np.ndarray:
    x = np.random.default_rng(3).normal(size=(40, 4)) * 2.5
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def package(words: list[str] = WORDS, labels: list[str] = LABELS, lm: bytes = BINARY, utf8: bool = False) -> bytes:
    return lm + struct.pack("<ii?dd", 0x54524945, 6, utf8, 0.7, 1.5) + automaton(words, labels)


@pytest.fixture(scope="module")
def scorer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorer") / "kenlm.scorer"
    path.write_bytes(package())
    return path


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> ds_ctcdecoder.Alphabet:
    path = tmp_path_factory.mktemp("alphabet") / "alphabet.txt"
    path.write_text("# comment\n \na\nb\n")
    return ds_ctcdecoder.Alphabet(str(path))


def test_a_package_brings_its_words_and_weights(scorer_path: Path, arpa: Path, log_probs: np.ndarray) -> None:
    found = read_scorer(scorer_path, [*LABELS, ""], 3)
    assert found is not None
    assert (found.alpha, found.beta, sorted(found.words)) == (0.7, 1.5, WORDS)
    decoder = BeamSearchDecoder([*LABELS, ""], language_model=scorer_path)
    assert (decoder.config.alpha, decoder.config.beta) == (0.7, 1.5)
    config = BeamConfig(alpha=0.7, beta=1.5)
    plain = BeamSearchDecoder([*LABELS, ""], language_model=arpa, lexicon=WORDS, config=config)
    assert decoder.decode(log_probs)[0].text == plain.decode(log_probs)[0].text
    assert read_scorer(arpa, LABELS, 3) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (package()[:-9], "damaged or cut off"),
        (package(utf8=True), "byte-wise"),
        (package(labels=["a", "b", " "]), "wrong alphabet"),
        (package(["ab", "abc"], [" ", "a", "b", "c"]), "wrong alphabet"),
        (package([]), "no words"),
        (BINARY, "does not carry its words"),
    ],
    ids=["cut", "utf8", "order", "label", "empty", "bare"],
)
def test_a_package_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.scorer").write_bytes(content)
    with pytest.raises(DecoderError, match=sentence):
        BeamSearchDecoder([*LABELS, ""], language_model=tmp_path / "x.scorer")


def test_ds_ctcdecoder_scores_as_deepspeech_does(
    scorer_path: Path, alphabet: ds_ctcdecoder.Alphabet, arpa: Path, log_probs: np.ndarray
) -> None:
    scorer = ds_ctcdecoder.Scorer(0.5, 1.0, str(scorer_path), alphabet)
    p = np.exp(log_probs)
    results = ds_ctcdecoder.ctc_beam_search_decoder(p, alphabet, 200, scorer=scorer, num_results=3)
    model = kenlm.Model(str(arpa))
    assert len(results) == 3
    assert [score for score, _ in results] == sorted((score for score, _ in results), reverse=True)
    config = BeamConfig(
        alpha=0.5, beta=1.0, beam_size=200, beam_threshold=30, token_floor=-30, n_best=3, end_of_sentence=False
    )
    decoder = BeamSearchDecoder([*LABELS, ""], language_model=arpa, lexicon=WORDS, config=config)
    for (score, text), ours in zip(results, decoder.decode(log_probs), strict=True):
        lm = math.log(10) * model.score(text, eos=False)
        assert (text, score) == (ours.text, pytest.approx(ours.score, abs=1e-3))
        assert score == pytest.approx(ours.acoustic_score + 0.5 * lm + len(text.split()), abs=1e-3)
    batch = ds_ctcdecoder.ctc_beam_search_decoder_batch(
        np.stack([p, p]), [40, 20], alphabet, 200, 2, scorer=scorer, num_results=3
    )
    assert batch[0] == results
    assert batch[1] == ds_ctcdecoder.ctc_beam_search_decoder(p[:20], alphabet, 200, scorer=scorer, num_results=3)
    scorer.reset_params(0.0, 5.0)
    more = ds_ctcdecoder.ctc_beam_search_decoder(p, alphabet, 200, scorer=scorer)[0][1]
    assert len(more.split()) >= len(results[0][1].split())


def test_ds_ctcdecoder_cutoffs_and_hot_words(
    scorer_path: Path, alphabet: ds_ctcdecoder.Alphabet, log_probs: np.ndarray
) -> None:
    scorer = ds_ctcdecoder.Scorer(0.5, 1.0, str(scorer_path), alphabet)
    p = np.exp(log_probs)
    for cutoffs in ({"cutoff_prob": 0.9}, {"cutoff_top_n": 1}, {"cutoff_prob": 0.5, "cutoff_top_n": 2}):
        assert ds_ctcdecoder.ctc_beam_search_decoder(p, alphabet, 50, scorer=scorer, **cutoffs)[0][0] > -1e30
    boosted = ds_ctcdecoder.ctc_beam_search_decoder(p, alphabet, 50, scorer=scorer, hot_words={"ba": 20.0})[0][1]
    assert "ba" in boosted.split()
    with pytest.raises(DecoderError, match="wanted probabilities"):
        ds_ctcdecoder.ctc_beam_search_decoder(log_probs, alphabet, 50, scorer=scorer)


def test_the_alphabet_encodes_and_decodes(alphabet: ds_ctcdecoder.Alphabet) -> None:
    assert alphabet.GetSize() == 3
    assert alphabet.Decode(alphabet.Encode("ab a")) == "ab a"
    assert (alphabet.CanEncode("abc"), alphabet.CanEncodeSingle("b")) == (False, True)
    assert alphabet.DecodeSingle(alphabet.EncodeSingle("b")) == "b"
    with pytest.raises(DecoderError, match="no label 'z'"):
        alphabet.Encode("z")


def test_pyctcdecode_decodes_logits(arpa: Path, log_probs: np.ndarray) -> None:
    decoder = build_ctcdecoder([*LABELS, ""], kenlm_model_path=str(arpa), unigrams=WORDS, alpha=0.6, beta=1.0)
    text = decoder.decode(log_probs)
    assert decoder.decode(log_probs + 5.0) == text  # logits
    assert decoder.decode(np.exp(log_probs)) == text  # probabilities
    beams = decoder.decode_beams(log_probs, beam_width=50)
    assert beams[0].lm_score >= beams[-1].lm_score
    assert " ".join(word for word, _ in beams[0].text_frames) == beams[0].text
    assert decoder.decode_batch(None, [log_probs, log_probs[:9]]) == [text, decoder.decode(log_probs[:9])]
    assert "bb" in decoder.decode(log_probs, hotwords=["bb"], hotword_weight=30.0).split()
    decoder.reset_params(beta=9.0)
    assert len(decoder.decode(log_probs).split()) >= len(text.split())


def test_pyctcdecode_without_a_language_model(log_probs: np.ndarray) -> None:
    text = build_ctcdecoder(["<pad>", "|", "a", "b"]).decode(np.roll(log_probs, 1, axis=1))
    assert text == build_ctcdecoder([*LABELS, ""]).decode(log_probs)
    with pytest.raises(DecoderError, match="for the blank"):
        build_ctcdecoder(["a", "b"])
    with pytest.raises(DecoderError, match="NaN"):
        build_ctcdecoder([*LABELS, ""]).decode(np.full((3, 4), np.nan))
