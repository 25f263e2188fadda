"""Augmentation of mel features: speed, vocal tract, channel, noise, and masks (SpecAugment, Park et al. 2019)."""

from __future__ import annotations

import numpy as np
import torch

from asr_training.features import mel
from asr_training.recipe import Augment, Features


def stretch_time(x: np.ndarray, rate: float) -> np.ndarray:
    """Play [frames, mels] `rate` times as fast, by linear interpolation between frames."""
    positions = np.minimum(np.arange(max(1, int(len(x) / rate))) * rate, len(x) - 1.001)
    whole = positions.astype(np.int64)
    share = (positions - whole).astype(np.float32)[:, None]
    return np.asarray(x[whole] * (1 - share) + x[whole + 1] * share)


def random_rate(share: float, rng: np.random.Generator) -> float:
    """A rate up to `share` faster or slower, both as likely."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(share)))


def warp_frequency(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Move the mel bands of [frames, mels] by a factor from `low` to `high`, as another vocal tract does.

    It changes evenly from the lowest band to the highest: mouth and throat need not be longer by the same share.
    """
    bands = np.arange(x.shape[1])
    positions = np.clip(bands * np.linspace(low, high, len(bands)), 0, x.shape[1] - 1.001)
    whole = positions.astype(np.int64)
    share = (positions - whole).astype(np.float32)
    return np.asarray(x[:, whole] * (1 - share) + x[:, whole + 1] * share)


def add_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a steady noise floor of random level and colour to log-mel features."""
    mels = x.shape[1]
    colour = np.interp(np.arange(mels), np.linspace(0, mels - 1, 5), rng.normal(0, 1.5, 5))
    floor = x.mean() + rng.uniform(-3.5, 0.8) + colour + rng.normal(0, 0.5, x.shape)
    return np.asarray(np.logaddexp(x, floor.astype(np.float32)))


def band_of(hz: float, features: Features) -> int:
    """The first mel band whose middle lies above a frequency."""
    low, high, limit = mel(torch.tensor([features.low_hz, features.high_hz, hz], dtype=torch.float64)).tolist()
    return int(np.clip(np.ceil((limit - low) / (high - low) * (features.mels + 1) - 1), 0, features.mels))


def turn_down(x: np.ndarray, decibels: float, floor: float) -> np.ndarray:
    """Make log-mel features quieter, down to the `floor` of power that the front end adds."""
    return np.asarray(np.logaddexp(x - np.float32(decibels / 10 * np.log(10)), np.float32(np.log(floor))))


def limit_bands(x: np.ndarray, highest: int, floor: float) -> None:
    """Silence the bands of x from `highest` on, in place, as a telephone does."""
    x[:, highest:] = np.log(floor)


def mask_bands(x: np.ndarray, config: Augment, strength: float, rng: np.random.Generator) -> None:
    """Put bands and stretches of time of x, in place, at the mean of their band, which normalisation makes 0."""
    mean = x.mean(0)
    for _ in range(config.frequency_masks):
        width = int(rng.integers(0, int(config.frequency_width * strength) + 1))
        first = int(rng.integers(0, x.shape[1] - width + 1))
        x[:, first : first + width] = mean[first : first + width]
    for _ in range(round(len(x) / 100 * config.time_masks_per_second * strength)):
        width = int(rng.integers(0, config.time_width))
        first = int(rng.integers(0, max(1, len(x) - width)))
        x[first : first + width] = mean


def augment(
    x: np.ndarray,
    config: Augment,
    features: Features,
    strength: float,
    fewest: int,
    rng: np.random.Generator,
    view: np.random.Generator | None = None,
) -> np.ndarray:
    """Change features [frames, mels]; `strength` 0…1 scales noise and masks, `fewest` output frames stay possible.

    With `view` only the speed is drawn by `rng`, so that the frames of another view hold the same sounds, and all else
    by `view`.
    """
    if config.speed and len(x) > 30:
        rate = random_rate(config.speed, rng)
        if len(x) / rate / 4 > fewest * 1.1:  # 4 feature frames an output frame is the coarsest model's
            x = stretch_time(x, rate)
    rng = view or rng
    if config.warp:
        x = warp_frequency(x, *(1 + rng.uniform(-config.warp, config.warp, 2)))
    if rng.random() < config.noise * strength:
        x = add_noise(x, rng)
    if config.quieter:
        x = turn_down(x, rng.uniform(0, config.quieter) * strength, features.floor)
    x = x.copy()
    if config.telephone and rng.random() < config.telephone * strength:
        limit_bands(x, band_of(rng.uniform(3300, 3900), features), features.floor)
    mask_bands(x, config, strength, rng)
    return x
