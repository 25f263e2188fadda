"""Recordings cut between words: where the words are, what the pieces say, and what is made of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr_training import splice
from asr_training.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from asr_training.cli import app
from asr_training.evaluate import Result
from asr_training.model import AcousticModel
from asr_training.recipe import ConvolutionAttention, Features
from asr_training.text import Alphabet

LETTERS = " acdeghimnorstuvw'lkfby"
CHARACTER = 0.12  # seconds of each in the recordings of tiny_manifest, behind 0.1 s of silence
FRAME = 0.02


@given(seed=st.integers(0, 10_000), labels=st.lists(st.integers(0, 2), min_size=1, max_size=3), more=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_alignment_is_the_most_likely_path(seed: int, labels: list[int], more: int) -> None:
    frames = len(labels) + sum(a == b for a, b in itertools.pairwise(labels)) + more
    logits = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed))
    log_probs = logits.log_softmax(1).numpy().astype(np.float64)
    best, begins = -np.inf, []
    for path in itertools.product(range(4), repeat=frames):
        if [token for token, _ in itertools.groupby(path) if token != 3] == labels:
            score = sum(log_probs[t, token] for t, token in enumerate(path))
            if score > best:
                best = score
                begins = [t for t, token in enumerate(path) if token != 3 and (t == 0 or path[t - 1] != token)]
    found, likelihood = splice.align(log_probs, np.array(labels))
    assert found.tolist() == begins
    assert abs(likelihood - best / len(labels)) < 1e-9


def spoken(text: str) -> np.ndarray:
    """A tone for each character, and silence for a space, as long as in tiny_manifest."""
    time = np.arange(round(CHARACTER * 16000)) / 16000
    tones = [np.sin(2 * np.pi * 440 * time) * (character != " ") for character in text]
    return np.concatenate([np.zeros(1600), *tones, np.zeros(1600)])


def heard(labels: np.ndarray, frames: int) -> np.ndarray:
    """What a good model makes of a recording of tiny_manifest: each character where it begins."""
    log_probs = np.full((frames, len(LETTERS) + 1), -10.0, np.float32)
    places = np.round((0.1 + CHARACTER * np.arange(len(labels))) / FRAME).astype(int)
    log_probs[:, -1] = -0.01
    log_probs[places, -1], log_probs[places, labels] = -10, -0.01
    return log_probs


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose model hears what is said."""

    def results(model, corpus, device) -> Iterator[tuple[int, Result]]:  # type: ignore[no-untyped-def]
        for index, labels in enumerate(corpus.labels):
            yield index, Result(heard(labels, round(float(corpus.store.frames[index]) * 0.01 / FRAME)), 0.0)

    monkeypatch.setattr(splice, "log_probabilities", results)
    return written(tmp_path / "checkpoint", LETTERS)


def written(folder: Path, letters: str) -> Path:
    shape = ConvolutionAttention(stem=8, width=8, blocks=1, heads=1)
    model = AcousticModel(Features(), shape, len(letters) + 1)
    write_checkpoint(folder, Checkpoint(model, Features(), shape, Alphabet(letters), {}), {}, {})
    return folder


def test_words_are_cut_in_the_silence_between_them(checkpoint: Path, tiny_manifest: Path) -> None:
    found = splice.find_pieces(load_checkpoint(checkpoint), tiny_manifest, "")
    pieces = {piece.words: piece for piece in found["s"] if piece.audio.name == "0.flac"}
    assert list(pieces) == [("a",), ("cat",), ("sat",)]
    silences = [0.1 + CHARACTER * np.array([[1, 2], [5, 6]])]
    for (before, after), (begin, end) in zip(itertools.pairwise(pieces.values()), silences[0], strict=True):
        assert before.end == after.begin
        assert begin <= before.end / splice.SAMPLE_RATE <= end


def test_what_is_made_has_the_words_that_it_says(checkpoint: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = CliRunner().invoke(app, ["splice", str(checkpoint), str(tiny_manifest), str(out), "--times", "4"])
    assert ended.exit_code == 0, ended.output
    rows = [json.loads(line) for line in (out / "spliced.jsonl").read_text().splitlines()]
    there = sum(json.loads(line)["duration"] for line in tiny_manifest.read_text().splitlines())
    assert 3 * there < sum(row["duration"] for row in rows) < 4 * there + splice.LONGEST
    for row in rows:
        assert row["duration"] <= splice.LONGEST
        samples, rate = soundfile.read(out / row["audio"])
        assert rate == splice.SAMPLE_RATE and abs(len(samples) / rate - row["duration"]) < 1e-3
        # Each character is said for CHARACTER seconds, and so are most of the spaces.
        letters = len(row["text"].replace(" ", ""))
        loud = np.sqrt(np.convolve(samples**2, np.ones(160) / 160, "same")) > 0.05
        assert abs(loud.mean() * row["duration"] / (letters * CHARACTER) - 1) < 0.15


@pytest.mark.parametrize("text", ["a  cat", " a cat", "a cat ", "a"])
def test_every_piece_has_the_words_that_are_said_in_it(
    checkpoint: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "QUIET", np.inf)  # every gap is a cut
    soundfile.write(tmp_path / "a.flac", spoken(text), 16000)
    row = {"audio": "a.flac", "text": text, "licence": "CC0"}
    (tmp_path / "m.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    found = splice.find_pieces(load_checkpoint(checkpoint), tmp_path / "m.jsonl", "")
    if text == " ".join(text.split()):
        assert len(found) == 2  # without a speaker each recording has one of its own
        assert all([word for piece in pieces for word in piece.words] == text.split() for pieces in found.values())
        assert all(piece.licence == "CC0" for pieces in found.values() for piece in pieces)
    else:
        assert not found


def test_what_lies_there_is_not_replaced(checkpoint: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    ended = CliRunner().invoke(app, ["splice", str(checkpoint), str(tiny_manifest), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "not replaced" in str(ended.exception)


def test_a_word_that_the_checkpoint_cannot_write_is_named(checkpoint: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", spoken("a cat"), 16000)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.flac", "text": "a zoo"}) + "\n")
    ended = CliRunner().invoke(app, ["splice", str(checkpoint), str(tmp_path / "m.jsonl"), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "outside the alphabet" in str(ended.exception)


def test_a_checkpoint_without_words_is_refused(tiny_manifest: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "letters", LETTERS.replace(" ", ""))
    ended = CliRunner().invoke(app, ["splice", str(folder), str(tiny_manifest), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "no space" in str(ended.exception)


def test_a_checkpoint_that_hears_nothing_is_refused(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "LIKELY", -1e-3)
    folder = written(tmp_path / "deaf", LETTERS)
    ended = CliRunner().invoke(app, ["splice", str(folder), str(tiny_manifest), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "hears none of the texts" in str(ended.exception)
