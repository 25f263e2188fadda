"""What a volunteer's recording has and a synthesiser's has not: a room, a microphone's noise, and MP3's losses."""

from __future__ import annotations

import io

import numpy as np
import soundfile

SHARE = 0.5  # of the recordings that have each of the three
REVERBERATION = (0.15, 0.6)  # seconds in which a room's echo falls by 60 dB
DIRECT = (0.0, 15.0)  # dB, the voice itself over its echo
NOISE = (15.0, 45.0)  # dB, the voice over the noise
COLOUR = (0.0, 1.5)  # the noise's power falls with the frequency to the power of this: 0 is white, 1 pink
LOWEST = 50.0  # Hz, that the noise has
MP3 = (0.82, 0.95)  # compression level of libsndfile, 32 to 16 kbit/s at 16 kHz
MP3_DELAY = 1105  # samples by which LAME's coding (576) and a decoder (529) delay what they return


def recorded_at_home(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Clean speech, float32 [n] in -1…1, as if recorded at home: as long and as early as it was, at its level."""
    if not samples.any():
        return samples
    level, heard = np.sqrt(np.mean(samples**2)), samples
    if rng.random() < SHARE:
        heard = in_a_room(heard, rate, rng)
    if rng.random() < SHARE:
        heard = heard + coloured_noise(len(heard), rate, rng) * level * 10 ** (-rng.uniform(*NOISE) / 20)
    heard = np.clip(heard * level / np.sqrt(np.mean(heard**2)), -1, 1).astype(np.float32)
    return through_mp3(heard, rate, rng.uniform(*MP3)) if rng.random() < SHARE else heard


def in_a_room(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """With the echo of a room whose response is noise that decays exponentially (Polack 1988), the voice unmoved."""
    seconds = rng.uniform(*REVERBERATION)
    echo = rng.normal(size=round(seconds * rate)) * 10 ** (-3 * np.arange(round(seconds * rate)) / (seconds * rate))
    echo[: round(rng.uniform(0.001, 0.01) * rate)] = 0  # the way by the nearest wall
    echo *= 10 ** (-rng.uniform(*DIRECT) / 20) / np.sqrt(np.sum(echo**2))
    echo[0] = 1
    length = len(samples) + len(echo)
    heard: np.ndarray = np.fft.irfft(np.fft.rfft(samples, length) * np.fft.rfft(echo, length), length)
    return heard[: len(samples)]


def coloured_noise(count: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour and a power of 1, float [count]; silence where that is shorter than its lowest tone."""
    spectrum, hertz = np.fft.rfft(rng.normal(size=count)), np.fft.rfftfreq(count, 1 / rate)
    spectrum *= np.where(hertz < LOWEST, 0, np.maximum(hertz, LOWEST) ** (-rng.uniform(*COLOUR) / 2))
    noise: np.ndarray = np.fft.irfft(spectrum, count)
    return np.asarray(noise / max(1e-9, np.sqrt(np.mean(noise**2))))


def through_mp3(samples: np.ndarray, rate: int, compression: float) -> np.ndarray:
    """What MP3 leaves of it, at a compression level of `MP3`; in its place and length.

    Files of more kbit/s would say how much their delay is, and decoders take it off.
    """
    file = io.BytesIO()
    soundfile.write(
        file, samples, rate, "MPEG_LAYER_III", format="MP3", compression_level=compression, bitrate_mode="CONSTANT"
    )
    file.seek(0)
    left, _ = soundfile.read(file, dtype="float32")
    return np.asarray(left[MP3_DELAY : MP3_DELAY + len(samples)])
