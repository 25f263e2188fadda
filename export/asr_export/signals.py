"""What proofs are made on: signals of lengths that models get wrong, together in padded batches.

Two float32 programs that are both right differ by rounding only, so a leak of padding or a wrong frame shows on any
signal; speech-like ones keep models within what they were trained for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

SPEECH_SECONDS = (1.7, 0.31, 4.05, 2.6)
LONG_SECONDS = (21.0, 0.8)
PADDING = 8000  # samples of a batch behind its longest item

Samples = npt.NDArray[np.float32]


class Timing(Protocol):
    """What of a front end decides which lengths are worth trying, in samples and hertz."""

    @property
    def sample_rate(self) -> int: ...  # noqa: D102
    @property
    def hop(self) -> int: ...  # noqa: D102
    @property
    def window(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Limits:
    """The shortest and longest audio, in samples, that an engine was built for."""

    shortest: int
    longest: int


def batches(config: Timing, recordings: Sequence[Samples], limits: Limits | None = None) -> Iterator[list[Samples]]:
    """Shortest lengths, speech-like signals, a long one beside a short one, and the recordings by fours.

    Within `limits`, whose shortest and longest lengths are tried as well, longer items are cut.
    """
    rate = config.sample_rate
    tiny = [0, 1, config.hop - 1, config.hop, config.window - 1, config.window + 1, 5 * config.hop, 9 * config.hop + 7]
    long, most = [int(seconds * rate) for seconds in LONG_SECONDS], None
    if limits:
        tiny += [limits.shortest - 1, limits.shortest]
        long, most = [limits.longest, min(long[1], limits.longest)], limits.longest
    yield [speech_like(size, rate, seed)[:most] for seed, size in enumerate(tiny)]
    for sizes in ([int(seconds * rate) for seconds in SPEECH_SECONDS], long):
        yield [speech_like(size, rate, seed)[:most] for seed, size in enumerate(sizes, 100)]
    for i in range(0, len(recordings), 4):
        yield [recording[:most] for recording in recordings[i : i + 4]]


def noisy(batches: Iterable[Sequence[Samples]], deviation: float) -> Iterator[list[Samples]]:
    """The items over noise, the same each time."""
    generator = np.random.default_rng(1)
    for batch in batches:
        yield [item + generator.normal(0, deviation, len(item)).astype(np.float32) for item in batch]


def alike(batches: Iterable[Sequence[Samples]]) -> Iterator[list[Samples]]:
    """Each item beside itself backwards, so that a batch has one length."""
    for batch in batches:
        yield from ([item, item[::-1].copy()] for item in batch)


def padded(batch: Sequence[Samples], limits: Limits | None = None) -> Samples:
    """Items [samples] as one [batch, samples] whose padding is loud noise: more than any needs, within `limits`."""
    longest = max(len(item) for item in batch) + PADDING
    longest = min(longest, limits.longest) if limits else longest
    waveform = np.random.default_rng(len(batch)).uniform(-1, 1, (len(batch), longest)).astype(np.float32)
    for row, item in zip(waveform, batch, strict=True):
        row[: len(item)] = item
    return waveform


def spoken(rate: int) -> list[Samples]:
    """Speech-like signals of some seconds, for want of recordings."""
    return [speech_like(int(seconds * rate), rate, seed) for seed, seconds in enumerate(SPEECH_SECONDS[:2], 200)]


def speech_like(samples: int, rate: int, seed: int) -> Samples:
    """Voiced syllables of a gliding pitch, with pauses, over noise: float32 [samples] in -1…1, the same each time."""
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    pitch = generator.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * generator.uniform(0.3, 0.9) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = generator.uniform((300, 900, 2200), (800, 2000, 3200))
    voice = np.zeros(samples)
    for harmonic in range(1, 30):
        loudness = sum(np.exp(-(((harmonic * pitch - formant) / 250) ** 2)) for formant in formants)
        voice += loudness * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(2.5, 4.5) * time), 0, None)
    noise = generator.normal(0, generator.choice([1e-4, 3e-3, 3e-2]), samples)
    signal: Samples = np.clip(0.1 * voice * syllables + noise, -1, 1).astype(np.float32)
    return signal
