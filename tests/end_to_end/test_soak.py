"""Long work stays right and small: an hour of audio, in pieces and in one, with the memory of its process measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_bench.measure import Process, run_process

RATE = 16000
TEXT = "a cat sat on the mat and the dog ran home "
RUN = "import sys; from asr_runtime.cli import main; main()"


@pytest.fixture(scope="module")
def recording(spell: Callable[[str], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A WAV file of whole sentences, at least so many seconds long."""
    folder = tmp_path_factory.mktemp("long")
    sentence = spell(TEXT)

    def of(seconds: int) -> Path:
        path = folder / f"{seconds}.wav"
        if not path.exists():
            with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as out:
                for _ in range(sentences(seconds, sentence)):
                    out.write(sentence)
        return path

    return of


def sentences(seconds: int, sentence: np.ndarray) -> int:
    return -(-seconds * RATE // len(sentence))


def transcribed(bundle: Path, out: Path, *recordings: Path) -> tuple[list[dict[str, object]], Process]:
    """What asr-run writes as JSON of `recordings`, and what its process took."""
    arguments = ["--model", str(bundle), "--quiet", "--threads", "2", "--format", "json", "--output", str(out)]
    process = run_process(["-c", RUN, *arguments, "--force", *map(str, recordings)])
    found = json.loads(out.read_text())
    return (found if isinstance(found, list) else [found]), process


def check(found: dict[str, object], seconds: int, spell: Callable[[str], np.ndarray]) -> None:
    """Every word is there, in order, and where it was said, to a frame."""
    sentence = spell(TEXT)
    count = sentences(seconds, sentence)
    assert found["text"] == " ".join([TEXT.strip()] * count)
    words = found["words"]
    assert isinstance(words, list)
    first = [word["start"] for word in words[: len(TEXT.split())]]
    expected = np.add.outer(np.arange(count) * len(sentence) / RATE, first).ravel()
    np.testing.assert_allclose([word["start"] for word in words], expected, atol=0.041)


def test_an_hour_in_pieces(
    tone_bundle: Path, recording: Callable[[int], Path], spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    lengths = list(islice(cycle([600, 60, 300]), 11))
    assert sum(lengths) >= 3600 - 300
    _, small = transcribed(tone_bundle, tmp_path / "one.json", recording(60))
    found, process = transcribed(tone_bundle, tmp_path / "all.json", *map(recording, lengths))
    assert process.peak_mb - small.peak_mb < 100
    for one, seconds in zip(found, lengths, strict=True):
        check(one, seconds, spell)


@pytest.mark.parametrize(
    ("seconds", "more_mb"), [(3600, 60), pytest.param(36000, 100, marks=pytest.mark.soak)], ids=["hour", "ten hours"]
)
def test_in_one(
    seconds: int,
    more_mb: float,
    tone_bundle: Path,
    recording: Callable[[int], Path],
    spell: Callable[[str], np.ndarray],
    tmp_path: Path,
) -> None:
    _, small = transcribed(tone_bundle, tmp_path / "minute.json", recording(60))
    (found,), process = transcribed(tone_bundle, tmp_path / "long.json", recording(seconds))
    print(f"{small.peak_mb:.0f} MB for a minute, {process.peak_mb:.0f} MB for {seconds} s")
    check(found, seconds, spell)
    assert process.peak_mb - small.peak_mb < more_mb
