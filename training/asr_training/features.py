"""The front end: waveforms to mel features, as convolutions so that the exported graph can be the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_training.recipe import Features


def mel(hz: Tensor) -> Tensor:
    """The HTK scale of pitch (Young et al., The HTK Book, section 5.4)."""
    return 2595 * torch.log10(1 + hz / 700)


def mel_filters(config: Features) -> Tensor:
    """Triangular mel filters, [fft // 2 + 1, mels]."""
    bins = mel(torch.arange(config.fft // 2 + 1, dtype=torch.float64) * config.sample_rate / config.fft)[:, None]
    ends = mel(torch.tensor([config.low_hz, config.high_hz], dtype=torch.float64))
    points = torch.linspace(float(ends[0]), float(ends[1]), config.mels + 2, dtype=torch.float64)
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def fourier_kernels(config: Features) -> Tensor:
    """Windowed cosines and sines as convolution kernels, [2 * (fft // 2 + 1), 1, window]."""
    window = torch.hann_window(config.window, dtype=torch.float64)
    frequencies = torch.arange(config.fft // 2 + 1, dtype=torch.float64)[:, None]
    angles = 2 * math.pi / config.fft * frequencies * torch.arange(config.window, dtype=torch.float64)
    return (torch.cat([angles.cos(), angles.sin()]) * window)[:, None].float()


def time_mask(lengths: Tensor, size: int) -> Tensor:
    """1 where a position lies inside its item and 0 in the padding: [batch, size], bool."""
    return torch.arange(size, device=lengths.device)[None] < lengths[:, None]


class MelSpectrogram(nn.Module):
    """Waveforms [batch, samples] in -1…1 to mel features [batch, frames, mels], logarithmic if so configured.

    Frame t is centred on sample t * hop; beyond both ends the waveform counts as silence. Nothing is trained here.
    """

    filters: Tensor
    kernels: Tensor

    def __init__(self, config: Features) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("filters", mel_filters(config), persistent=False)
        self.register_buffer("kernels", fourier_kernels(config), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and how many frames each item has (samples // hop + 1)."""
        waveform = waveform * time_mask(lengths, waveform.shape[1])
        half = self.config.window // 2
        return self.bands(F.pad(waveform, (half, half))), lengths // self.config.hop + 1

    def bands(self, waveform: Tensor) -> Tensor:
        """Mel features [batch, frames, mels] of the windows that lie wholly in waveforms [batch, samples]."""
        spectrum = F.conv1d(waveform[:, None], self.kernels, stride=self.config.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        features = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
        if self.config.log:
            features = torch.log(features + self.config.floor)
        return features


def normalise(features: Tensor, frames: Tensor) -> Tensor:
    """Subtract each band's mean over the item's frames and divide by one deviation for all bands; padding becomes 0."""
    mask = time_mask(frames, features.shape[1])[:, :, None]
    count = frames.clamp(min=1)[:, None, None]
    features = (features - (features * mask).sum(1, keepdim=True) / count) * mask
    variance = features.square().mean(2, keepdim=True).sum(1, keepdim=True) / count
    return features / (variance.sqrt() + 1e-3)
