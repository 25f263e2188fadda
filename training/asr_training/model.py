"""The acoustic models: mel features [batch, frames, mels] to log-probabilities of tokens [batch, frames out, tokens].

Each masks whatever mixes frames, so that padding and the neighbours in a batch change nothing beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_training.depthwise import depthwise
from asr_training.features import MelSpectrogram, normalise, time_mask
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class ResidualBlock(nn.Module):
    """(LayerNorm over frequency → activation → dropout → Conv2d) once or more, added to the input."""

    def __init__(self, config: CRNN, bands: int) -> None:
        super().__init__()
        self.config = config
        self.norms = nn.ModuleList(nn.LayerNorm(bands) for _ in range(config.convolutions))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in range(config.convolutions)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the shape that came in: [batch, channels, bands, frames]."""
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = ACTIVATIONS[self.config.activation](norm(y.transpose(2, 3)).transpose(2, 3))
            y = convolution(F.dropout(y, self.config.dropout, self.training) * mask)
        return x + y


class RecurrentLayer(nn.Module):
    """LayerNorm → activation → bidirectional GRU → dropout, each item over its own frames only."""

    def __init__(self, config: CRNN, size: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(size)
        self.gru = nn.GRU(size, config.recurrent_size, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Take [batch, frames, size], return [batch, frames, 2 * recurrent_size]."""
        x = ACTIVATIONS[self.config.activation](self.norm(x))
        packed = nn.utils.rnn.pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return F.dropout(y, self.config.dropout, self.training)


class CRNNEncoder(nn.Module):
    """The CRNN family: see `recipe.CRNN` for what can be chosen."""

    stride = 2

    def __init__(self, config: CRNN, mels: int, tokens: int) -> None:
        super().__init__()
        self.config = config
        bands, size = (mels + 1) // 2, config.recurrent_size
        self.convolution = nn.Conv2d(1, config.channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(config, bands) for _ in range(config.blocks))
        self.projection = nn.Linear(config.channels * bands, size)
        self.layers = nn.ModuleList(
            RecurrentLayer(config, size if i == 0 else 2 * size) for i in range(config.recurrent_layers)
        )
        self.hidden = nn.Linear(2 * size, size)
        self.output = nn.Linear(size, tokens)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, the frames of each item, and None: no intermediate logits."""
        frames = (frames + 1) // 2
        x = self.convolution(features.transpose(1, 2)[:, None])
        mask = time_mask(frames, x.shape[3])[:, None, None].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        x = self.projection(x.flatten(1, 2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x, frames)
        x = F.dropout(ACTIVATIONS[self.config.activation](self.hidden(x)), self.config.dropout, self.training)
        return self.output(x), frames, None


def channel_dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout of whole channels of an item: one random number for all frames, which costs a CPU nearly nothing."""
    if not training or share == 0:
        return x
    keep = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= share
    return x * (keep.to(x.dtype) / (1 - share))


class Stem(nn.Module):
    """Windows of 8 feature frames every 4, [batch, frames, mels] to [batch, ceil(frames / 4), width]."""

    def __init__(self, config: ConvolutionAttention, mels: int) -> None:
        super().__init__()
        self.window = nn.Conv1d(mels, config.stem, 8, stride=4)
        self.projection = nn.Linear(config.stem, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor) -> Tensor:
        """Return the windows' vectors."""
        windows = F.pad(features, (0, 0, 2, 5)).unfold(1, 8, 4).flatten(2)  # [batch, windows, mels * 8]
        x = F.relu(F.linear(windows, self.window.weight.flatten(1), self.window.bias))
        y: Tensor = self.norm(self.projection(x))
        return y


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions on [..., frames, head size] (Su et al. 2021, arXiv 2104.09864)."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosines - b * sines, b * cosines + a * sines), -1)


class Attention(nn.Module):
    """LayerNorm → self-attention over an item's frames, with rotary positions."""

    def __init__(self, config: ConvolutionAttention) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        """Take x [batch, frames, width] and mask [batch, frames, 1]; return the shape of x."""
        batch, frames, width = x.shape
        heads, size = self.config.heads, width // self.config.heads
        qkv = self.queries_keys_values(self.norm(x)).view(batch, frames, 3, heads, size)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, frames, size)
        queries, keys = rotate(queries, *positions), rotate(keys, *positions)
        scores = torch.bmm(queries, keys.transpose(1, 2)).view(batch, heads, frames, frames) * size**-0.5
        weights = (scores + (mask.transpose(1, 2)[:, None] - 1) * 1e4).softmax(-1)
        y = torch.bmm(weights.to(values.dtype).flatten(0, 1), values).view(batch, heads, frames, size)
        y = self.output(y.transpose(1, 2).reshape(batch, frames, width))
        return channel_dropout(y, self.config.dropout, self.training)


class ConvolutionBlock(nn.Module):
    """Depthwise convolution → LayerNorm → Linear → ReLU → Linear, added to the input (after Liu et al. 2022)."""

    def __init__(self, config: ConvolutionAttention) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, config.expansion * width)
        self.narrow = nn.Linear(config.expansion * width, width)
        nn.init.zeros_(self.narrow.bias)
        self.narrow.weight.data.mul_(0.3)  # a block begins near the identity, so that many of them train at once

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Take x [batch, frames, width] and mask [batch, frames, 1]; return the shape of x."""
        x = x * mask
        bias = self.depthwise.bias
        assert bias is not None  # nn.Conv1d is made with one
        y = self.narrow(F.relu(self.wide(self.norm(depthwise(x, self.depthwise.weight, bias)))))
        return x + channel_dropout(y, self.config.dropout, self.training)


class ConvolutionAttentionEncoder(nn.Module):
    """Convolution blocks at a quarter of the feature rate, attention before every n-th of them.

    An intermediate layer is trained with a loss of its own, on characters or phonemes; if the model is conditioned, its
    probabilities go into the blocks behind it (Nozaki and Komatsu 2021, arXiv 2104.02724). The output layers write
    `subframes` frames of log-probabilities for each step of the blocks, which costs next to nothing.
    """

    def __init__(self, config: ConvolutionAttention, mels: int, tokens: int) -> None:
        super().__init__()
        self.config = config
        self.stride = 4 // config.subframes
        self.stem = Stem(config, mels)
        self.attentions = nn.ModuleDict(
            {str(i): Attention(config) for i in range(config.blocks) if (i + 1) % config.attention_every == 0}
        )
        self.blocks = nn.ModuleList(ConvolutionBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, config.subframes * tokens)
        found = config.phonemes + 1 if config.phonemes else tokens
        self.intermediate = nn.Linear(config.width, config.subframes * found)  # in training only, unless conditioned
        self.condition = nn.Linear(found, config.width) if config.conditioned else None

    @property
    def intermediate_block(self) -> int:
        """The block behind which the intermediate layer stands, at two thirds of them; -1 where there are too few."""
        return len(self.blocks) * 2 // 3 - 1

    def positions(self, frames: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary positions, each [frames, head size / 2]."""
        half = self.config.width // self.config.heads // 2
        frequencies = 1e4 ** (-torch.arange(half, device=like.device) / half)
        angles = torch.arange(frames, device=like.device)[:, None] * frequencies
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, the frames of each item, and in training the logits at two thirds of the blocks."""
        frames = (frames + 3) // 4
        x = self.stem(features)
        mask = time_mask(frames, x.shape[1])[:, :, None].to(x.dtype)
        positions, intermediate = self.positions(x.shape[1], x), None
        for i, block in enumerate(self.blocks):
            if str(i) in self.attentions:
                x = x + self.attentions[str(i)](x, mask, positions)
            x = block(x, mask)
            if i == self.intermediate_block and (self.training or self.condition is not None):
                intermediate = self.intermediate(x)
                if self.condition is not None:
                    x = x + self.condition(intermediate.softmax(-1).to(x.dtype))
        logits = self.finer(self.output(self.norm(x)))
        return (
            logits,
            frames * self.config.subframes,
            self.finer(intermediate) if intermediate is not None and self.training else None,
        )

    def finer(self, x: Tensor) -> Tensor:
        """The subframes that each step has side by side, one after the other."""
        batch, steps, size = x.shape
        return x.reshape(batch, steps * self.config.subframes, size // self.config.subframes)


def make_encoder(config: Model, mels: int, tokens: int) -> nn.Module:
    """The encoder that a recipe asks for."""
    if isinstance(config, CRNN):
        return CRNNEncoder(config, mels, tokens)
    return ConvolutionAttentionEncoder(config, mels, tokens)


class AcousticModel(nn.Module):
    """Waveform in, log-probabilities out: front end and encoder, exactly what is exported."""

    def __init__(self, features: Features, model: Model, tokens: int) -> None:
        super().__init__()
        self.config = features
        self.front_end = MelSpectrogram(features)
        self.encoder = make_encoder(model, features.mels, tokens)

    @property
    def stride(self) -> int:
        """How many feature frames make a frame of log-probabilities."""
        return int(self.encoder.stride)  # type: ignore[arg-type]

    @property
    def frame_seconds(self) -> float:
        """The time between two frames of log-probabilities."""
        return self.stride * self.config.hop / self.config.sample_rate

    def encode(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """From mel features [batch, frames, mels], as the front end makes them, to log-probabilities in float32.

        Returns log-probabilities, frames, and in training the intermediate log-probabilities or None.
        """
        if self.config.normalise:
            features = normalise(features, frames)
        else:
            features = features * time_mask(frames, features.shape[1])[:, :, None]
        logits, frames, intermediate = self.encoder(features, frames)
        second = None if intermediate is None else intermediate.float().log_softmax(-1)
        return logits.float().log_softmax(-1), frames, second

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Take float32 [batch, samples] in -1…1 and int64 [batch]; return log-probabilities and frames."""
        log_probs, frames, _ = self.encode(*self.front_end(waveform, lengths))
        return log_probs, frames


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(math.prod(p.shape) for p in model.parameters())
