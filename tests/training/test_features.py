from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_training.features import MelSpectrogram, mel_filters, normalise
from asr_training.recipe import Features


@pytest.mark.parametrize("config", [Features(), Features(mels=128, fft=400, hop=200, log=False)])
def test_equals_the_short_time_fourier_transform(config: Features) -> None:
    waveform = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1)) * 0.1
    found, frames = MelSpectrogram(config)(waveform, torch.tensor([8000]))
    spectrum = torch.stft(
        waveform, config.fft, config.hop, config.window, torch.hann_window(config.window),
        center=True, pad_mode="constant", return_complex=True,
    )  # fmt: skip
    expected = (spectrum.abs().square().transpose(1, 2)) @ mel_filters(config)
    if config.log:
        expected = torch.log(expected + config.floor)
    assert frames.tolist() == [expected.shape[1]]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_filters_rise_and_fall_to_the_neighbours_centres() -> None:
    filters = mel_filters(Features()).numpy()
    peaks = filters.argmax(0)
    assert (np.diff(peaks) >= 0).all()
    assert (filters >= 0).all()
    assert filters.max() <= 1


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_and_neighbours_change_nothing(lengths: list[int], seed: int) -> None:
    front_end, generator = MelSpectrogram(Features()), torch.Generator().manual_seed(seed)
    waveforms = torch.randn(len(lengths), max(max(lengths), 1), generator=generator)  # noise in the padding, too
    features, frames = front_end(waveforms, torch.tensor(lengths))
    features = normalise(features, frames)
    for row, length in enumerate(lengths):
        alone, count = front_end(waveforms[row : row + 1, : max(length, 1)], torch.tensor([length]))
        alone = normalise(alone, count)[0, : int(count)]
        torch.testing.assert_close(features[row, : int(frames[row])], alone, rtol=0, atol=2e-4)
        assert not features[row, int(frames[row]) :].any()


def test_loudness_does_not_matter_after_normalisation() -> None:
    waveform = torch.randn(1, 16000, generator=torch.Generator().manual_seed(2)) * 0.5
    front_end, length = MelSpectrogram(Features(floor=0.0)), torch.tensor([16000])
    loud, soft = (normalise(*front_end(waveform * gain, length)) for gain in (1.0, 0.1))
    torch.testing.assert_close(loud, soft, rtol=0, atol=1e-3)
