from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_training.augment import augment, band_of, limit_bands, stretch_time, turn_down, warp_frequency
from asr_training.features import MelSpectrogram
from asr_training.recipe import Augment, Features

FULL = Augment(
    speed=0.2,
    warp=0.1,
    noise=1.0,
    quieter=20,
    telephone=0.5,
    frequency_masks=2,
    frequency_width=8,
    time_masks_per_second=2.0,
    time_width=10,
)
FEATURES = Features(mels=20)


def features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-5, 2, (frames, 20)).astype(np.float32)


@given(frames=st.integers(1, 300), fewest=st.integers(0, 60), seed=st.integers(0, 999))
def test_the_text_stays_possible_and_the_numbers_finite(frames: int, fewest: int, seed: int) -> None:
    x = features(frames)
    y = augment(x, FULL, FEATURES, 1.0, fewest, np.random.default_rng(seed))
    assert y.shape[1] == 20
    assert np.isfinite(y).all()
    assert len(y) == frames or len(y) / 4 > fewest
    assert np.array_equal(x, features(frames))  # the stored features are left alone


@given(st.integers(0, 999))
def test_the_same_generator_gives_the_same_change(seed: int) -> None:
    first, second = (augment(features(120), FULL, FEATURES, 1.0, 3, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, second)


@given(st.integers(0, 999))
def test_views_have_one_speed_and_other_changes(seed: int) -> None:
    first, second, same = (
        augment(features(120), FULL, FEATURES, 1.0, 3, np.random.default_rng(seed), view)
        for view in (None, np.random.default_rng(seed + 1), np.random.default_rng(seed + 1))
    )
    assert len(first) == len(second)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, same)
    speed = Augment(speed=0.2)
    first, second = (
        augment(features(120), speed, FEATURES, 1.0, 3, np.random.default_rng(seed), view)
        for view in (None, np.random.default_rng(seed + 1))
    )
    assert np.array_equal(first, second)


def test_a_strength_of_0_leaves_out_noise_and_masks() -> None:
    still = Augment(noise=1.0, telephone=1.0, frequency_masks=2, time_masks_per_second=2.0)
    assert np.array_equal(augment(features(120), still, FEATURES, 0.0, 3, np.random.default_rng(1)), features(120))


def test_stretching_and_warping_keep_a_smooth_shape() -> None:
    ramp = np.tile(np.arange(100, dtype=np.float32)[:, None], (1, 20))
    assert len(stretch_time(ramp, 1.25)) == 80
    np.testing.assert_allclose(stretch_time(ramp, 1.25)[:, 0], np.arange(80) * 1.25, atol=0.01)
    np.testing.assert_allclose(warp_frequency(ramp.T, 0.9, 0.9)[0], np.arange(100) * 0.9, atol=0.01)
    mixed = warp_frequency(ramp.T, 1.0, 0.8)[0]
    np.testing.assert_allclose(mixed[[0, 1, -1]], [0, 1, 79.2], atol=0.01)


def log_mel(waveform: np.ndarray) -> np.ndarray:
    samples = torch.from_numpy(waveform.astype(np.float32))[None]
    return np.asarray(MelSpectrogram(Features())(samples, torch.tensor([len(waveform)]))[0][0])


def test_turned_down_features_are_those_of_a_quieter_recording() -> None:
    waveform = np.random.default_rng(1).normal(0, 0.01, 16000)
    quiet = turn_down(log_mel(waveform), 60, Features().floor)
    np.testing.assert_allclose(quiet, log_mel(waveform * 1e-3), atol=0.4)
    assert np.median(np.abs(quiet - log_mel(waveform * 1e-3))) < 0.2


def test_a_telephone_loses_the_bands_above_its_limit() -> None:
    times = np.arange(16000) / 16000
    for hertz, heard in ((2500, True), (5000, False)):
        x = log_mel(0.1 * np.sin(2 * np.pi * hertz * times))
        limit_bands(x, band_of(3600, Features()), Features().floor)
        assert bool(x.max() > 0) is heard
    assert band_of(9000, Features()) == 80
