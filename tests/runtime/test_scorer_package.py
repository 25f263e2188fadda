"""`.scorer` packages of DeepSpeech and Coqui as language models: the right words, or one typed sentence."""

import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder, default_config
from asr_runtime.errors import DecoderError

DATA = Path(__file__).parent / "data" / "ds_ctcdecoder"
SCORER = DATA / "small.scorer"
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
TOKENS = [*LETTERS, ""]
TRIE = 0x54524945
FST = struct.pack("<ii5si8s", 2125659606, 5, b"const", 8, b"standard")

Arcs = list[tuple[int, int]]  # (label, target)


def kenlm_part() -> bytes:
    """The language model of the package in the tests' data: a KenLM trie without its words."""
    whole = SCORER.read_bytes()
    return whole[: whole.index(FST) - 25]


LM = kenlm_part()


def trie_of(words: list[str], letters: str = LETTERS) -> list[tuple[bool, Arcs]]:
    """The words, each with a space behind it, as states (final, arcs); state 0 is the start."""
    states: list[tuple[bool, dict[int, int]]] = [(False, {})]
    for word in words:
        at = 0
        for letter in word + " ":
            label = letters.index(letter) + 1
            if label not in states[at][1]:
                states[at][1][label] = len(states)
                states.append((False, {}))
            at = states[at][1][label]
        states[at] = (True, states[at][1])
    return [(final, sorted(arcs.items())) for final, arcs in states]


def package(
    states: list[tuple[bool, Arcs]],
    *,
    lm: bytes = LM,
    version: int = 6,
    utf8: int = 0,
    alpha: float = 0.5,
    beta: float = 1.5,
    start: int = 0,
    fst_version: int = 1,
    flags: int = 4,
    arc_count: int | None = None,
) -> bytes:
    """A package as generate_scorer_package writes it, or with one thing wrong."""
    count = sum(len(arcs) for _, arcs in states)
    out = lm + struct.pack("<iiBdd", TRIE, version, utf8, alpha, beta) + FST
    out += struct.pack("<iiQqqq", fst_version, flags, 0, start, len(states), count if arc_count is None else arc_count)
    align = (lambda data: data + bytes(-len(data) % 16)) if fst_version == 1 else bytes
    firsts = itertools.accumulate((len(arcs) for _, arcs in states), initial=0)
    out = align(out) + b"".join(
        struct.pack("<fIIII", 0.0 if final else math.inf, first, len(arcs), 0, 0)
        for (final, arcs), first in zip(states, firsts, strict=False)
    )
    out = align(out)
    return out + b"".join(
        struct.pack("<iifi", label, label, 0.0, target) for _, arcs in states for label, target in arcs
    )


def spell(text: str) -> np.ndarray:
    """Log-probabilities [frames, tokens] of which the text is by far the likeliest reading."""
    log_probs = np.full((2 * len(text) + 1, len(TOKENS)), -20.0, dtype=np.float32)
    log_probs[:, -1] = -5.0
    log_probs[::2, -1] = 0.0
    log_probs[range(1, 2 * len(text), 2), [LETTERS.index(letter) for letter in text]] = -0.01
    return log_probs


def emissions() -> list[np.ndarray]:
    data = np.load(DATA / "emissions.npz")
    return np.split(data["emissions"].astype(np.float32) / -16, np.cumsum(data["lengths"])[:-1])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def to_file(content: bytes) -> Path:
        path = tmp_path / "test.scorer"
        path.write_bytes(content)
        return path

    return to_file


def test_a_package_decodes_like_its_model_with_its_words(write: Callable[[bytes], Path]) -> None:
    words = ["yet", "it", "was", "the", "vision", "which", "decided", "me", "as", "to", "my", "clear", "path", "duty"]
    config = BeamConfig(alpha=0.75, beta=1.85, n_best=3)
    packed = BeamSearchDecoder(TOKENS, language_model=write(package(trie_of(words))), config=config)
    plain = BeamSearchDecoder(TOKENS, language_model=write(LM), lexicon=words, config=config)
    for log_probs in emissions():
        assert packed.decode(log_probs) == plain.decode(log_probs)


def test_the_words_of_a_minimal_automaton_are_all_there() -> None:
    decoder = BeamSearchDecoder(TOKENS, language_model=SCORER)
    assert decoder.decode(spell("yet it was the vision"))[0].text == "yet it was the vision"
    assert (
        decoder.decode(emissions()[0])[0].text == "yet it was the vision which decided me as to my clear path of duty"
    )


@pytest.mark.parametrize(("fst_version", "flags"), [(1, 4), (1, 0), (2, 0)])
def test_aligned_and_packed_automata_are_read(write: Callable[[bytes], Path], fst_version: int, flags: int) -> None:
    path = write(package(trie_of(["vision", "the"]), fst_version=fst_version, flags=flags))
    assert BeamSearchDecoder(TOKENS, language_model=path).decode(spell("the vision"))[0].text == "the vision"


def test_alpha_and_beta_of_the_package_are_defaults_only(write: Callable[[bytes], Path]) -> None:
    path = write(package(trie_of(["the"]), alpha=0.31, beta=-0.7))
    assert default_config(path) == BeamConfig(alpha=0.31, beta=-0.7)
    assert BeamSearchDecoder(TOKENS, language_model=path).config == BeamConfig(alpha=0.31, beta=-0.7)
    chosen = replace(default_config(path), alpha=1.0, beam_size=7)
    assert BeamSearchDecoder(TOKENS, language_model=path, config=chosen).config.alpha == 1.0


def test_other_files_have_the_usual_defaults(write: Callable[[bytes], Path]) -> None:
    assert default_config() == default_config("no such file") == default_config(write(LM)) == BeamConfig()
    assert default_config(write(b"\\data\\\n")) == default_config(write(b"")) == BeamConfig()


def test_the_blank_may_stand_anywhere(write: Callable[[bytes], Path]) -> None:
    decoder = BeamSearchDecoder(["", *LETTERS], language_model=write(package(trie_of(["vision"]))))
    assert decoder.decode(np.roll(spell("vision"), 1, axis=1))[0].text == "vision"


def test_a_lexicon_of_ones_own_replaces_the_packed_words() -> None:
    decoder = BeamSearchDecoder(TOKENS, language_model=SCORER, lexicon=["path", "duty"])
    assert decoder.decode(spell("path duty"))[0].text == "path duty"
    assert decoder.decode(spell("vision"))[0].text == ""


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([*" abcdef", ""], "its words use character"),
        ([*"abcdefghijklmnopqrstuvwxyz' ", ""], "another alphabet"),
        ([*" 'zyxwvutsrqponmlkjihgfedcba", ""], "its own language model knows only"),
        ([*"abcdefghijklmnopqrstuvwxyz'", ""], "no token is a space"),
    ],
    ids=["short", "space last", "reversed", "no space"],
)
def test_a_wrong_alphabet_is_named(tokens: list[str], reason: str, one_sentence: Callable[[str], None]) -> None:
    with pytest.raises(DecoderError, match=reason) as error:
        BeamSearchDecoder(tokens, language_model=SCORER)
    assert "made for another alphabet" in str(error.value)
    one_sentence(str(error.value))


DOUBLING = [(False, [(2, i + 1), (3, i + 1)]) for i in range(200)] + [(False, [(1, 201)]), (True, [])]


DAMAGED = [
    (package(trie_of(["the"]), utf8=1), "UTF-8 mode"),
    (package(trie_of(["the"]), utf8=77), "header is damaged"),
    (package(trie_of(["the"]), alpha=math.nan), "header is damaged"),
    (package(trie_of(["the"]), alpha=-1), "header is damaged"),
    (package(trie_of(["the"]), version=5), "its version is 5, wanted 6"),
    (package(trie_of(["the"]), fst_version=9), "word list has version 9"),
    (package(trie_of(["the"]), flags=7), "symbol tables"),
    (package(trie_of(["the"]), start=-1), "empty or damaged"),
    (package(trie_of(["the"]), start=99), "empty or damaged"),
    (package(trie_of(["the"]), arc_count=-1), "longer than the file"),
    (package(trie_of(["the"]), arc_count=3), "word list is damaged"),
    (package([(False, [(2, 99)])]), "word list is damaged"),
    (package([]), "empty or damaged"),
    (package([(False, [])]), "word list is empty"),
    (package([(True, [])]), "do not end in the space"),
    (package([(False, [(2, 0)])]), "goes in a circle"),
    (package([(False, [(2, 1)]), (False, [(3, 0), (1, 2)]), (True, [])]), "goes in a circle"),
    (package(DOUBLING), "words without end"),
    (package([(False, [(2, i + 1)]) for i in range(100_000)] + [(True, [])]), "do not end in the space"),
    (LM, "does not carry its words"),
    (LM[:5000], r"test\.scorer"),
]


@pytest.mark.parametrize(("content", "reason"), DAMAGED, ids=[reason for _, reason in DAMAGED])
def test_a_damaged_package_is_one_sentence(
    write: Callable[[bytes], Path], content: bytes, reason: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(DecoderError, match=reason) as error:
        BeamSearchDecoder(TOKENS, language_model=write(content))
    one_sentence(str(error.value))


def try_to_decode(path: Path) -> None:
    """Whatever the file holds: an answer or a DecoderError."""
    try:
        decoder = BeamSearchDecoder(TOKENS, language_model=path)
    except DecoderError as error:
        assert "test.scorer" in str(error) or "lexicon" in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert isinstance(decoder.decode(spell("the vision"))[0].text, str)


def test_a_package_may_be_cut_anywhere(write: Callable[[bytes], Path]) -> None:
    whole = package(trie_of(["the", "vision", "path"]))
    for length in [*range(0, len(LM), 1999), *range(len(LM) - 3, len(whole))]:
        path = write(whole[:length])
        with pytest.raises(DecoderError):
            BeamSearchDecoder(TOKENS, language_model=path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@example(changes=[(24, 64)])  # a beta that no search takes
def test_changed_bytes_behind_the_model_never_crash(
    write: Callable[[bytes], Path], changes: list[tuple[int, int]]
) -> None:
    content = bytearray(package(trie_of(["the", "vision", "path", "duty"])))
    for place, value in changes:
        content[len(LM) + place % (len(content) - len(LM))] = value
    try_to_decode(write(bytes(content)))
