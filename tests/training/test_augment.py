from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_training.augment import augment, stretch_time, warp_frequency
from asr_training.recipe import Augment

FULL = Augment(
    speed=0.2, warp=0.1, noise=1.0, frequency_masks=2, frequency_width=8, time_masks_per_second=2.0, time_width=10
)


def features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-5, 2, (frames, 20)).astype(np.float32)


@given(frames=st.integers(1, 300), fewest=st.integers(0, 60), seed=st.integers(0, 999))
def test_the_text_stays_possible_and_the_numbers_finite(frames: int, fewest: int, seed: int) -> None:
    x = features(frames)
    y = augment(x, FULL, 1.0, fewest, np.random.default_rng(seed))
    assert y.shape[1] == 20
    assert np.isfinite(y).all()
    assert len(y) == frames or len(y) / 4 > fewest
    assert np.array_equal(x, features(frames))  # the stored features are left alone


@given(st.integers(0, 999))
def test_the_same_generator_gives_the_same_change(seed: int) -> None:
    first, second = (augment(features(120), FULL, 1.0, 3, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_strength_of_0_leaves_out_noise_and_masks() -> None:
    still = Augment(noise=1.0, frequency_masks=2, time_masks_per_second=2.0)
    assert np.array_equal(augment(features(120), still, 0.0, 3, np.random.default_rng(1)), features(120))


def test_stretching_and_warping_keep_a_smooth_shape() -> None:
    ramp = np.tile(np.arange(100, dtype=np.float32)[:, None], (1, 20))
    assert len(stretch_time(ramp, 1.25)) == 80
    np.testing.assert_allclose(stretch_time(ramp, 1.25)[:, 0], np.arange(80) * 1.25, atol=0.01)
    np.testing.assert_allclose(warp_frequency(ramp.T[:, :100], 0.9)[0], np.arange(100) * 0.9, atol=0.01)
