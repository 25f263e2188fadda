"""The features that NeMo's CTC models are trained on, in PyTorch and as nodes.

Pre-emphasis → short-time Fourier transform (symmetric Hann window) → power → mel bands on Slaney's scale, of equal
area → logarithm → each band's mean and deviation over the item's own frames. Constants are those of NeMo's
`FilterbankFeatures` in evaluation; an item has samples // hop frames, and what comes behind them is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_export.builder import GraphBuilder
from asr_export.front_end import cleared, mel_bands, padded_to
from asr_training.features import MelSpectrogram, time_mask
from asr_training.recipe import Features

PRE_EMPHASIS = 0.97
FLOOR = 2.0**-24  # added to the power before the logarithm
DEVIATION_FLOOR = 1e-5  # added to each band's deviation
FEWEST_FRAMES = 2  # of which a deviation can be taken; shorter items are followed by silence
SAMPLE_RATE, HOP = 16_000, 160


def settings(mels: int, window_seconds: float, normalise: bool) -> Features:
    """A front end of so many bands; the transform's size is the window's, rounded up to a power of two."""
    window = round(window_seconds * SAMPLE_RATE)
    fft = 1 << (window - 1).bit_length()
    return Features(SAMPLE_RATE, mels, fft, window, HOP, 0.0, SAMPLE_RATE / 2, True, FLOOR, normalise)


def slaney_filters(config: Features) -> Tensor:
    """[fft // 2 + 1, mels]: triangles of equal area between points of Slaney's scale, which is linear up to 1 kHz
    (Slaney 1998, Auditory Toolbox, Interval Research technical report 1998-010).
    """
    per_mel, knee, step = 200 / 3, 1000.0, math.log(6.4) / 27

    def mel(hertz: float) -> float:
        return hertz / per_mel if hertz < knee else knee / per_mel + math.log(hertz / knee) / step

    mels = torch.linspace(mel(config.low_hz), mel(config.high_hz), config.mels + 2, dtype=torch.float64)
    above = knee * torch.exp(step * (mels - knee / per_mel))
    points = torch.where(mels < knee / per_mel, mels * per_mel, above)
    bins = torch.arange(config.fft // 2 + 1, dtype=torch.float64)[:, None] * config.sample_rate / config.fft
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (points[2:] - points[:-2])).float()


class NemoFrontEnd(MelSpectrogram):
    """Waveforms [batch, samples] in -1…1 to features [batch, frames, mels]."""

    def __init__(self, config: Features) -> None:
        super().__init__(config)
        window = torch.hann_window(config.window, periodic=False, dtype=torch.float64)
        frequencies = torch.arange(config.fft // 2 + 1, dtype=torch.float64)[:, None]
        angles = 2 * math.pi / config.fft * frequencies * torch.arange(config.window, dtype=torch.float64)
        self.kernels = (torch.cat([angles.cos(), angles.sin()]) * window)[:, None].float()
        self.filters = slaney_filters(config)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features, of samples // hop + 1 frames, and how many of them each item has."""
        half, fewest = self.config.window // 2, FEWEST_FRAMES * self.config.hop
        waveform = F.pad(waveform, (0, max(fewest - waveform.shape[1], 0)))
        inside = time_mask(lengths, waveform.shape[1])
        waveform = waveform * inside
        emphasised = (waveform - PRE_EMPHASIS * F.pad(waveform, (1, 0))[:, :-1]) * inside
        features, frames = self.bands(F.pad(emphasised, (half, half))), lengths.clamp(min=fewest) // self.config.hop
        mask, count = time_mask(frames, features.shape[1])[:, :, None], frames[:, None, None]
        if self.config.normalise:
            features = features - (features * mask).sum(1, keepdim=True) / count
            variance = (features * mask).square().sum(1, keepdim=True) / (count - 1)
            features = features / (variance.sqrt() + DEVIATION_FLOOR)
        return features * mask, frames


def nemo_features(graph: GraphBuilder, waveform: str, lengths: str, front_end: NemoFrontEnd) -> tuple[str, str]:
    """Waveform [batch, samples] and lengths to features [batch, mels, frames] and the frames of each item."""
    config = front_end.config
    fewest = graph.integers(FEWEST_FRAMES * config.hop, scalar=True)
    features = mel_bands(graph, emphasised(graph, waveform, lengths), front_end, config.window // 2)
    reached = graph.node("Max", lengths, fewest, name="feature_frames.samples")
    frames = graph.node("Div", reached, graph.integers(config.hop, scalar=True), name="feature_frames")
    mask = graph.mask(frames, graph.size(features, 2, "feature_frames.most"), [1], "feature_mask")
    if config.normalise:
        features = normalised(graph, features, mask, frames)
    return graph.node("Mul", features, mask, name="features"), frames


def emphasised(graph: GraphBuilder, waveform: str, lengths: str) -> str:
    """x[t] - 0.97 · x[t - 1] within each item, [batch, samples or more]: silence follows what is too short."""
    clean = padded_to(graph, cleared(graph, waveform, lengths), FEWEST_FRAMES * HOP)
    clean = graph.node("Pad", clean, graph.integers(0, 1, 0, 0), name="waveform.before")
    longer = graph.node("Unsqueeze", clean, graph.integers(1), name="waveform.before.channel")
    kernel = graph.constant("emphasis", torch.tensor([[[-PRE_EMPHASIS, 1.0]]]))
    signal = graph.node(
        "Squeeze", graph.node("Conv", longer, kernel, name="emphasis.x"), graph.integers(1), name="sharp"
    )
    inside = graph.inside(lengths, graph.size(signal, 1, "samples.most"), "sharp.inside")
    return graph.node("Where", inside, signal, graph.number(0.0), name="sharp.clean")


def normalised(graph: GraphBuilder, features: str, mask: str, frames: str) -> str:
    """Each band less its mean over the item's frames, divided by its deviation (n - 1) over them."""
    count = graph.node("Cast", frames, name="features.count.flat", to=1)
    count = graph.node("Unsqueeze", count, graph.integers(1, 2), name="features.count")

    def mean(x: str, divisor: str, name: str) -> str:
        kept = graph.node("Mul", x, mask, name=f"{name}.kept")
        return graph.node(
            "Div", graph.node("ReduceSum", kept, graph.integers(2), name=f"{name}.sum"), divisor, name=name
        )

    centred = graph.node("Sub", features, mean(features, count, "features.mean"), name="features.centred")
    squares = graph.node("Mul", centred, centred, name="features.squares")
    others = graph.node("Sub", count, graph.number(1.0), name="features.others")
    deviation = graph.node("Sqrt", mean(squares, others, "features.variance"), name="features.deviation")
    divisor = graph.node("Add", deviation, graph.number(DEVIATION_FLOOR), name="features.divisor")
    return graph.node("Div", centred, divisor, name="features.normalised")
