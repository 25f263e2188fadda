"""Inputs that several test folders share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000
SENTENCES = ["a cat sat", "the dog ran home", "it's late", "come and see", "no one knew", "see the cat", "we ran", "at home"]


def spoken(text: str, seconds: float = 0.12, seed: int = 0) -> np.ndarray:
    """A language that a small model learns in seconds: each character is a chord of its own; float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    parts = [np.zeros(RATE // 10)]
    for character in text:
        tones = () if character == " " else (300 + 70 * (ord(character) % 13), 1500 + 350 * (ord(character) % 11))
        parts.append(sum((np.sin(2 * np.pi * tone * time) for tone in tones), np.zeros(len(time))) * fade * 0.2)
    samples = np.concatenate([*parts, np.zeros(RATE // 10)])
    return (samples + rng.normal(0, 0.003, len(samples))).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of eight short recordings in the language of `spoken`."""
    folder = tmp_path_factory.mktemp("tiny")
    rows = []
    for number, text in enumerate(SENTENCES):
        samples = spoken(text, seed=number)
        soundfile.write(folder / f"{number}.flac", samples, RATE)
        row = {"audio": f"{number}.flac", "text": text, "duration": len(samples) / RATE, "speaker": "s", "source": "chords"}
        rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "train.jsonl"


@pytest.fixture
def one_sentence() -> Callable[[str], None]:
    """A check that a message for a user is one line that is no traceback."""

    def check(message: str) -> None:
        assert message.strip(), "the message is empty"
        assert len(message.strip().splitlines()) == 1, message
        assert "Traceback" not in message

    return check
