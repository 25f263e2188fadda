"""`asr-export import-seed`: the published CRNNs of seed-audio-recognition and seed-librispeech.

Their code makes 128 mel bands (HTK scale, FFT and window of 400 samples, hop of 200, power without a logarithm, both
ends of the recording mirrored) and sets `batch_first` on its first GRU only. The later ones therefore run over the
batch: for a recording alone they see single steps, so they are gates without memory. A file of weights cannot show
whether they were trained like that or over time; its user has to say.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_export.builder import GraphBuilder
from asr_export.crnn import crnn, recurrent_layer
from asr_export.front_end import cleared, frames_of, masked, mel_bands
from asr_export.graph import recogniser
from asr_export.importers.packing import Imported, sha256, write_import
from asr_export.proofs import Figures, prove
from asr_runtime.bundle import Bundle
from asr_runtime.errors import ExportError
from asr_training.features import MelSpectrogram
from asr_training.model import ACTIVATIONS, AcousticModel, CRNNEncoder, RecurrentLayer
from asr_training.recipe import CRNN, Features
from asr_training.text import Alphabet

ALPHABET = Alphabet("' abcdefghijklmnopqrstuvwxyz")
FEATURES = Features(mels=128, fft=400, window=400, hop=200, low_hz=0.0, high_hz=8000.0, log=False, normalise=False)
SHAPES = {(5, 1): "relu", (3, 2): "gelu", (7, 1): "gelu"}  # blocks, convolutions in each: activation
RECURRENCES = ("time", "published")
NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # what float32 can be made of
NAMES = (
    (r"cnn\.", "convolution."),
    (r"res_cnn\.(\d+)\.norm\.", r"blocks.\1.norms.0."),
    (r"res_cnn\.(\d+)\.conv\.", r"blocks.\1.convolutions.0."),
    (r"res_cnn\.(\d+)\.cnn1\.norm\.", r"blocks.\1.norms.0."),
    (r"res_cnn\.(\d+)\.cnn1\.conv\.", r"blocks.\1.convolutions.0."),
    (r"res_cnn\.(\d+)\.cnn2\.norm\.", r"blocks.\1.norms.1."),
    (r"res_cnn\.(\d+)\.cnn2\.conv\.", r"blocks.\1.convolutions.1."),
    (r"fc\.", "projection."),
    (r"rnn\.(\d+)\.", r"layers.\1."),
    (r"dense\.0\.", "hidden."),
    (r"dense\.3\.", "output."),
)

Weights = Mapping[str, Tensor]


def import_seed(weights: Path, bundle: Path, recurrence: str | None, imported: Imported) -> tuple[Bundle, Figures]:
    """Write published weights as a bundle, proved equal to PyTorch; raises ExportError and BundleError."""
    model = seed_model(weights, recurrence)
    graph = author(model)
    figures = prove(graph, model)
    encoder = model.encoder.config
    assert isinstance(encoder, CRNN)
    origin = {
        "kind": "seed",
        "file": weights.name,
        "sha256": sha256(weights),
        "recurrence": recurrence,
        "blocks": encoder.blocks,
        "convolutions": encoder.convolutions,
        "activation": encoder.activation,
    }
    return write_import(bundle, graph, figures, imported, origin), figures


# --- the PyTorch model -----------------------------------------------------------------------------------------------


def seed_model(path: Path, recurrence: str | None) -> AcousticModel:
    """The model that a file of published weights belongs to, in evaluation mode."""
    if recurrence not in RECURRENCES:
        got = "no --recurrence" if recurrence is None else f"--recurrence {recurrence}"
        raise ExportError(
            f"got {got}, wanted time or published:"
            " the published code runs its GRUs behind the first over the batch instead of over time, which weights"
            " cannot show; give published for weights that this code trained, time for those of corrected code."
        )
    weights = read_weights(path)
    config = architecture(path, weights)
    stored = {renamed(name): value.float() for name, value in weights.items()}
    try:
        with torch.device("meta"):  # sizes are compared before memory is taken for them
            CRNNEncoder(config, FEATURES.mels, len(ALPHABET.tokens)).load_state_dict(stored, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ExportError(f"{path}: these are weights of another model ({first}); give published weights.") from None
    model = AcousticModel(FEATURES, config, len(ALPHABET.tokens))
    model.front_end = PublishedMelSpectrogram(FEATURES)
    encoder = model.encoder
    assert isinstance(encoder, CRNNEncoder)
    if recurrence == "published":
        later = (MemorylessLayer(config, 2 * config.recurrent_size) for _ in encoder.layers[1:])
        encoder.layers = nn.ModuleList([encoder.layers[0], *later])
    encoder.load_state_dict(stored)
    return model.eval()


def read_weights(path: Path) -> Weights:
    """A state_dict; nothing but tensors is unpickled."""
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file; give published weights, like weights.pth.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about kinds of tensors that are refused below
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise ExportError(
            f"{path}: this is no file of plain PyTorch weights, or one that wants more than tensors ({kind}); "
            "nothing was run, give published weights."
        ) from None
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) and plain(weights[name]) for name in weights):
        raise ExportError(
            f"{path}: got {type(weights).__name__} of other things, wanted a state_dict of names and plain "
            "tensors of floating-point numbers; give published weights."
        )
    if any(value.untyped_storage().nbytes() < value.nbytes for value in weights.values()):
        raise ExportError(
            f"{path}: got tensors that share their numbers and could be of any size; give published weights."
        )
    return weights


def plain(value: object) -> bool:
    """Whether it is a tensor of numbers, each in its place: not sparse, nested, quantised or without storage."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in NUMBERS
        and not value.is_nested
    )


def architecture(path: Path, weights: Weights) -> CRNN:
    """Sizes and activation, told by names and shapes."""
    blocks, double = count(weights, "res_cnn"), any(".cnn2." in name for name in weights)
    shape = (blocks, 2 if double else 1)
    if shape not in SHAPES:
        known = ", ".join(f"{a} of {b}" for a, b in SHAPES)
        raise ExportError(
            f"{path}: got {shape[0]} residual blocks of {shape[1]} convolution(s), wanted one of {known}; "
            "give the weights of a published model."
        )
    try:
        convolution, projection, output = (weights[f"{name}.weight"].shape for name in ("cnn", "fc", "dense.3"))
    except KeyError as error:
        raise ExportError(f"{path}: these weights lack {error}; give the weights of a published model.") from None
    bands, tokens = (FEATURES.mels + 1) // 2, len(ALPHABET.tokens)
    channels = math.prod(convolution[:1])  # 1 where there are no sizes, which no model has
    if projection[1:] != (channels * bands,) or output[:1] != (tokens,):
        raise ExportError(
            f"{path}: got layers of {[*projection]} and {[*output]}, wanted {channels} channels of {bands} bands "
            f"and {tokens} tokens; give the weights of a published model."
        )
    return CRNN(
        channels=channels,
        blocks=blocks,
        convolutions=shape[1],
        activation=SHAPES[shape],
        recurrent_layers=count(weights, "rnn"),
        recurrent_size=projection[0],
    )


def count(weights: Weights, name: str) -> int:
    """How many numbered parts begin with `name`."""
    return len({found[1] for key in weights if (found := re.match(rf"{name}\.(\d+)\.", key))})


def renamed(name: str) -> str:
    """A published name as `CRNNEncoder` calls it; an unknown one stays, and is then refused."""
    return next((re.sub(f"^{old}", new, name) for old, new in NAMES if re.match(old, name)), name)


def triangles_in_hertz(config: Features) -> Tensor:
    """Mel filters, [fft // 2 + 1, mels], whose sides are straight over hertz, as torchaudio's are, not over mel."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (config.low_hz, config.high_hz))
    points = 700 * (10 ** (torch.linspace(low, high, config.mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.arange(config.fft // 2 + 1, dtype=torch.float64)[:, None] * config.sample_rate / config.fft
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


class PublishedMelSpectrogram(MelSpectrogram):
    """Mel features with each item mirrored at its own ends; one too short for that is followed by silence first."""

    def __init__(self, config: Features) -> None:
        super().__init__(config)
        self.filters = triangles_in_hertz(config)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `MelSpectrogram.forward`."""
        half = self.config.window // 2
        items = []
        for item, length in zip(waveform, lengths.tolist(), strict=True):
            whole = F.pad(item[:length], (0, max(half + 1 - length, 0)))
            items.append(F.pad(whole[None], (half, half), mode="reflect")[0])
        return self.bands(nn.utils.rnn.pad_sequence(items, batch_first=True)), lengths // self.config.hop + 1


class MemorylessLayer(RecurrentLayer):
    """A recurrent layer as the published code runs it on one recording: each frame is a sequence of its own."""

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Take [batch, frames, size], return [batch, frames, 2 * recurrent_size]."""
        single = ACTIVATIONS[self.config.activation](self.norm(x)).flatten(0, 1)[:, None]
        y: Tensor = self.gru(single)[0]
        return y.view(*x.shape[:2], -1)


# --- its graph -------------------------------------------------------------------------------------------------------


def author(model: AcousticModel) -> onnx.ModelProto:
    """The graph of a model of `seed_model`, with a bundle's signature."""
    graph, encoder = GraphBuilder(), model.encoder
    assert isinstance(encoder, CRNNEncoder)
    waveform = mirrored(graph, "waveform", "lengths", FEATURES.window // 2)
    features, frames = mel_bands(graph, waveform, model.front_end, 0), frames_of(graph, "lengths", FEATURES.hop)
    logits, _ = crnn(graph, masked(graph, features, frames, FEATURES), frames, encoder, layer)
    return recogniser(graph, logits, ALPHABET.tokens, FEATURES.sample_rate, model.frame_seconds)


def mirrored(graph: GraphBuilder, waveform: str, lengths: str, half: int) -> str:
    """[batch, samples + 1 + 2 · half] of which each item begins and ends mirrored: sample p is last - |last - |p||."""
    clean = cleared(graph, waveform, lengths)
    clean = graph.node("Pad", clean, graph.integers(0, 0, 0, half + 1), name="mirror.source")
    one = graph.integers(1, scalar=True)
    last = graph.node("Sub", lengths, one, name="mirror.last")
    last = graph.node("Max", last, graph.integers(half, scalar=True), name="mirror.last.reached")
    last = graph.node("Unsqueeze", last, graph.integers(1), name="mirror.last.column")
    end = graph.node("Add", "samples", graph.integers(half + 1, scalar=True), name="mirror.end")
    positions = graph.node("Range", graph.integers(-half, scalar=True), end, one, name="mirror.positions")
    left = graph.node("Abs", positions, name="mirror.left")
    right = graph.node("Abs", graph.node("Sub", last, left, name="mirror.distance"), name="mirror.right")
    index = graph.node("Sub", last, right, name="mirror.index")
    index = graph.node("Max", index, graph.integers(0, scalar=True), name="mirror.index.inside")
    return graph.node("GatherElements", clean, index, name="waveform.mirrored", axis=1)


def layer(graph: GraphBuilder, x: str, mask: str, padding: str, layer: RecurrentLayer, name: str) -> str:
    """A recurrent layer over time, or gates without memory, on [frames, batch, size]."""
    if not isinstance(layer, MemorylessLayer):
        return recurrent_layer(graph, x, mask, padding, layer, name)
    x = graph.activation(graph.layer_norm(x, layer.norm, f"{name}.norm"), layer.config.activation, f"{name}.activation")
    return gates(graph, x, layer.gru, f"{name}.gru")


def gates(graph: GraphBuilder, x: str, gru: nn.GRU, name: str) -> str:
    """One step of both directions from a state of zeros, (1 - z) · tanh(W x + b + r · c): no recurrent weights."""
    weights, size = dict(gru.named_parameters()), 2 * gru.hidden_size

    def both(kind: str) -> Tensor:  # rows r, z, n, each of both directions
        ways = [weights[f"{kind}_l0{way}"].detach().chunk(3) for way in ("", "_reverse")]
        return torch.cat([part for gate in zip(*ways, strict=True) for part in gate])

    bias, recurrent_bias = both("bias_ih"), both("bias_hh")
    own = torch.cat([recurrent_bias[: 2 * size], torch.zeros(size)])
    sums = graph.affine(x, both("weight_ih"), bias + own, f"{name}.sums")
    reset, update, new = graph.split(sums, (size, size, size), -1, [f"{name}.{part}" for part in ("r", "z", "n")])
    reset = graph.node("Sigmoid", reset, name=f"{name}.reset")
    kept = graph.node("Mul", reset, graph.constant(f"{name}.state", recurrent_bias[2 * size :]), name=f"{name}.kept")
    new = graph.node("Tanh", graph.node("Add", new, kept, name=f"{name}.sum"), name=f"{name}.new")
    update = graph.node("Sigmoid", graph.node("Neg", update, name=f"{name}.opposite"), name=f"{name}.update")  # 1 - z
    return graph.node("Mul", update, new, name=name)
