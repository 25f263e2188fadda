"""Clean speech as if recorded at home: changed, but in its place, as long and as loud as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.audio import read_audio
from asr_training.recording import coloured_noise, in_a_room, recorded_at_home, through_mp3

RATE = 16000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A sentence of 2.4 seconds."""
    return read_audio(str(Path(__file__).parents[2] / "samples" / "quick-and-eager.ogg"), RATE)


def delay_of(changed: np.ndarray, samples: np.ndarray) -> int:
    """By how many samples `changed` fits best to what it was."""
    size = 2 * len(samples)
    fit = np.fft.irfft(np.fft.rfft(changed, size) * np.conj(np.fft.rfft(samples, size)), size)
    best = int(np.argmax(fit))
    return best if best < len(samples) else best - size


@pytest.mark.parametrize("compression", [0.82, 0.9, 0.95])
@pytest.mark.parametrize("cut", [0, 1, 575, 577, 1151])
def test_mp3_leaves_speech_in_its_place(speech: np.ndarray, compression: float, cut: int) -> None:
    samples = speech[: len(speech) - cut]
    left = through_mp3(samples, RATE, compression)
    assert left.shape == samples.shape and left.dtype == np.float32
    assert delay_of(left, samples) == 0
    assert 0.9 < np.corrcoef(left, samples)[0, 1] < 1


def test_a_room_adds_what_comes_later(speech: np.ndarray) -> None:
    click = np.zeros(RATE, np.float32)
    click[4000] = 1
    for seed in range(10):
        heard = in_a_room(click, RATE, np.random.default_rng(seed))
        assert np.abs(heard[:4000]).max() < 1e-6 and heard[4000] == pytest.approx(1, abs=1e-5)
        echo = heard[4001:] ** 2
        assert 10**-1.5 * 0.9 < echo.sum() < 1.01
        assert echo[-2000:].sum() < 0.02 * echo.sum()
        assert delay_of(in_a_room(speech, RATE, np.random.default_rng(seed)), speech) == 0


@given(st.integers(0, 1000), st.integers(640, 5000))
@settings(deadline=None, max_examples=30)
def test_noise_has_a_power_of_one(seed: int, count: int) -> None:
    noise = coloured_noise(count, RATE, np.random.default_rng(seed))
    assert noise.shape == (count,) and np.mean(noise**2) == pytest.approx(1)


def test_noise_is_white_to_deep_and_none_of_it_below_what_is_heard() -> None:
    deeper = []
    for seed in range(30):
        by_hertz = np.abs(np.fft.rfft(coloured_noise(RATE, RATE, np.random.default_rng(seed)))) ** 2
        assert by_hertz[:50].sum() < 1e-9 * by_hertz.sum()
        deeper.append(by_hertz[100:200].mean() / by_hertz[4000:8000].mean())
    assert min(deeper) > 0.7 and max(deeper) > 40  # which pink noise has


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_what_is_too_short_to_be_a_recording_stays_as_long(speech: np.ndarray, count: int) -> None:
    for seed in range(10):
        changed = recorded_at_home(speech[5000 : 5000 + count], RATE, np.random.default_rng(seed))
        assert changed.shape == (count,) and np.isfinite(changed).all()


@given(st.integers(0, 10000), st.integers(600, 38000))
@settings(deadline=None, max_examples=30)
def test_a_recording_at_home_is_as_long_and_as_loud(speech: np.ndarray, seed: int, count: int) -> None:
    samples = speech[:count]
    changed = recorded_at_home(samples, RATE, np.random.default_rng(seed))
    assert changed.shape == samples.shape and changed.dtype == np.float32
    assert np.isfinite(changed).all() and np.abs(changed).max() < 1.2
    assert np.sqrt(np.mean(changed**2)) == pytest.approx(np.sqrt(np.mean(samples**2)), rel=0.3)
    assert np.array_equal(changed, recorded_at_home(samples, RATE, np.random.default_rng(seed)))


def test_silence_stays_silent() -> None:
    assert not recorded_at_home(np.zeros(1000, np.float32), RATE, np.random.default_rng(0)).any()
