"""Where recordings can be cut between words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr_runtime.errors import RecipeError
from asr_training import align
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.cli import app
from asr_training.evaluate import Result
from asr_training.manifest import are_cuts, read_manifest
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
    found, likelihood = align.align(log_probs, np.array(labels))
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

    monkeypatch.setattr(align, "log_probabilities", results)
    return written(tmp_path / "checkpoint", LETTERS)


def written(folder: Path, letters: str) -> Path:
    shape = ConvolutionAttention(stem=8, width=8, blocks=1, heads=1)
    model = AcousticModel(Features(), shape, len(letters) + 1)
    write_checkpoint(folder, Checkpoint(model, Features(), shape, Alphabet(letters), {}), {}, {})
    return folder


def aligned(checkpoint: Path, manifest: Path, out: Path) -> list[dict[str, Any]]:
    ended = CliRunner().invoke(app, ["align", str(checkpoint), str(manifest), str(out)])
    assert ended.exit_code == 0, ended.output
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_words_are_cut_in_the_silence_between_them(checkpoint: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    row = next(r for r in aligned(checkpoint, tiny_manifest, tmp_path / "out.jsonl") if r["text"] == "a cat sat")
    words, seconds = zip(*row["cuts"], strict=True)
    assert words == (0, 1, 2, 3)
    for second, space in zip(seconds[1:-1], (1, 5), strict=True):
        assert 0.1 + CHARACTER * space <= second <= 0.1 + CHARACTER * (space + 1)
    assert seconds[0] == pytest.approx(0.01, abs=0.02)


def test_the_lines_stay_and_their_recordings_are_found_from_elsewhere(
    checkpoint: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    before = [json.loads(line) for line in tiny_manifest.read_text().splitlines()]
    rows = aligned(checkpoint, tiny_manifest, tmp_path / "elsewhere" / "out.jsonl")
    assert [{**row, "audio": ""} | {"cuts": 0} for row in rows] == [{**row, "audio": "", "cuts": 0} for row in before]
    read = read_manifest(tmp_path / "elsewhere" / "out.jsonl")
    there = read_manifest(tiny_manifest)
    assert [u.audio.resolve() for u in read] == [u.audio.resolve() for u in there]
    assert [[list(cut) for cut in u.cuts] for u in read] == [row["cuts"] for row in rows]


@pytest.mark.parametrize("text", ["a  cat", " a cat", "a cat ", "a"])
def test_a_text_with_odd_spaces_has_no_cuts(checkpoint: Path, tmp_path: Path, text: str) -> None:
    soundfile.write(tmp_path / "a.flac", spoken(text), 16000)
    soundfile.write(tmp_path / "b.flac", spoken("a cat"), 16000)
    rows = [{"audio": "a.flac", "text": text}, {"audio": "b.flac", "text": "a cat"}]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    odd, plain = aligned(checkpoint, tmp_path / "m.jsonl", tmp_path / "out.jsonl")
    assert [word for word, _ in plain["cuts"]] == [0, 1, 2]
    if text == " ".join(text.split()):
        assert [word for word, _ in odd["cuts"]] == [0, 1]
    else:
        assert "cuts" not in odd


def test_a_broken_line_is_named_and_nothing_is_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.flac", "text": "a cat"\n')
    ended = CliRunner().invoke(app, ["align", str(checkpoint), str(tmp_path / "m.jsonl"), str(tmp_path / "out")])
    assert isinstance(ended.exception, RecipeError) and "line 1" in str(ended.exception)
    assert not (tmp_path / "out").exists()


def test_cuts_of_before_do_not_stay(checkpoint: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    rows = aligned(checkpoint, tiny_manifest, tmp_path / "out.jsonl")
    said = rows[0]["text"]
    rows[0]["text"] = said.replace(" ", "  ", 1)  # which has no alignment
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    again = aligned(checkpoint, tmp_path / "m.jsonl", tmp_path / "again.jsonl")
    assert "cuts" in rows[0] and "cuts" not in again[0]
    assert [row["cuts"] for row in again[1:]] == [row["cuts"] for row in rows[1:]]


def test_what_lies_there_is_not_replaced(checkpoint: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    ended = CliRunner().invoke(app, ["align", str(checkpoint), str(tiny_manifest), str(tmp_path / "out.jsonl")])
    assert isinstance(ended.exception, RecipeError) and "not replaced" in str(ended.exception)
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_recordings_are_found_behind_links_and_absolute_paths_stay(tmp_path: Path) -> None:
    (tmp_path / "far" / "runs").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.flac").write_text("sound")
    (tmp_path / "runs").symlink_to(tmp_path / "far" / "runs")
    audio = align.seen_from(tmp_path / "runs", tmp_path / "data", "a.flac")
    assert not Path(audio).is_absolute() and (tmp_path / "runs" / audio).read_text() == "sound"
    assert align.seen_from(tmp_path / "runs", tmp_path / "data", "/elsewhere/a.flac") == "/elsewhere/a.flac"


def test_a_word_that_the_checkpoint_cannot_write_is_named(checkpoint: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", spoken("a cat"), 16000)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.flac", "text": "a zoo"}) + "\n")
    ended = CliRunner().invoke(app, ["align", str(checkpoint), str(tmp_path / "m.jsonl"), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "outside the alphabet" in str(ended.exception)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_words_is_refused(tiny_manifest: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "letters", LETTERS.replace(" ", ""))
    ended = CliRunner().invoke(app, ["align", str(folder), str(tiny_manifest), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "no space" in str(ended.exception)


def test_a_checkpoint_that_hears_nothing_is_refused(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "LIKELY", -1e-3)
    folder = written(tmp_path / "deaf", LETTERS)
    ended = CliRunner().invoke(app, ["align", str(folder), str(tiny_manifest), str(tmp_path / "out")])
    assert ended.exit_code != 0
    assert "hears none of the texts" in str(ended.exception)


def test_a_word_with_one_silence_on_both_sides_is_not_a_piece_of_its_own(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)
    samples[7700:8300] = 0  # around the sound of the second word, which lies `EARLY` behind its label
    soundfile.write(tmp_path / "a.flac", samples, 16000)
    cuts = align.find_cuts(tmp_path / "a.flac", 3, np.array([1, 3]), np.array([0.2, 0.3, 0.45, 0.7, 0.8]))
    assert [word for word, _ in cuts] == [0, 1, 3]
    assert are_cuts([list(cut) for cut in cuts], 3)
