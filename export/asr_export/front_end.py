"""The front end as nodes: `asr_training.features`, with mel bands before frames."""

from __future__ import annotations

from asr_export.builder import GraphBuilder
from asr_training.features import MelSpectrogram
from asr_training.recipe import Features


def mel_features(graph: GraphBuilder, waveform: str, lengths: str, front_end: MelSpectrogram) -> tuple[str, str]:
    """Waveform [batch, samples] and lengths to mel features [batch, mels, frames] and the frames of each item."""
    clean = cleared(graph, waveform, lengths)
    features = mel_bands(graph, clean, front_end, front_end.config.window // 2)
    return features, frames_of(graph, lengths, front_end.config.hop)


def cleared(graph: GraphBuilder, waveform: str, lengths: str) -> str:
    """The waveform with silence in place of whatever lies in the padding."""
    inside = graph.inside(lengths, graph.size(waveform, 1, "samples"), "waveform.inside")
    return graph.node("Where", inside, waveform, graph.number(0.0), name="waveform.clean")


def padded_to(graph: GraphBuilder, waveform: str, fewest: int) -> str:
    """The `cleared` waveform with silence behind it where it has fewer samples."""
    signed = graph.node("Sub", graph.integers(fewest, scalar=True), "samples", name="lacking.signed")
    lacking = graph.node("Max", signed, graph.integers(0, scalar=True), name="lacking")
    column = graph.node("Unsqueeze", lacking, graph.integers(0), name="lacking.column")
    pads = graph.node("Concat", graph.integers(0, 0, 0), column, name="waveform.pads", axis=0)
    return graph.node("Pad", waveform, pads, name="waveform.longer")


def frames_of(graph: GraphBuilder, lengths: str, hop: int) -> str:
    """How many frames are centred on samples of an item, its end included: samples // hop + 1."""
    hops = graph.node("Div", lengths, graph.integers(hop, scalar=True), name="feature_frames.hops")
    return graph.node("Add", hops, graph.integers(1, scalar=True), name="feature_frames")


def mel_bands(graph: GraphBuilder, waveform: str, front_end: MelSpectrogram, silence: int) -> str:
    """Mel features [batch, mels, frames] of a waveform [batch, samples] with so much silence put at both ends.

    The short-time Fourier transform is a convolution with windowed cosines and sines: the fastest of the forms that
    ONNX Runtime, OpenVINO and TensorRT all take with dynamic length. Bins that no mel band uses are left out.
    """
    config = front_end.config
    used = front_end.filters.any(1)
    bins = int(used.sum())
    channel = graph.node("Unsqueeze", waveform, graph.integers(1), name="waveform.channel")
    fourier = graph.constant("fourier.kernels", front_end.kernels[used.repeat(2)])
    pads = [silence, silence]
    spectrum = graph.node("Conv", channel, fourier, name="spectrum", strides=[config.hop], pads=pads)
    squares = graph.node("Mul", spectrum, spectrum, name="spectrum.squares")
    real, imaginary = graph.split(squares, (bins, bins), 1, ("power.real", "power.imaginary"))
    power = graph.node("Add", real, imaginary, name="power")
    features = graph.node("MatMul", graph.constant("mel.filters", front_end.filters[used].t()), power, name="mel")
    if config.log:
        raised = graph.node("Add", features, graph.number(config.floor), name="mel.raised")
        features = graph.node("Log", raised, name="mel.log")
    return features


def masked(graph: GraphBuilder, features: str, frames: str, config: Features) -> str:
    """Features [batch, mels, frames] with zeros in the padding, normalised over the item's own frames if so set."""
    mask = graph.mask(frames, graph.size(features, 2, "feature_frames.most"), [1], "feature_mask")
    kept = graph.node("Mul", features, mask, name="features.kept")
    return normalised(graph, features, kept, mask, frames, config.mels) if config.normalise else kept


def normalised(graph: GraphBuilder, features: str, kept: str, mask: str, frames: str, mels: int) -> str:
    """Subtract each band's mean, divide by one deviation for all bands."""
    count = graph.node("Cast", frames, name="features.count.flat", to=1)
    count = graph.node("Unsqueeze", count, graph.integers(1, 2), name="features.count")
    total = graph.node("ReduceSum", kept, graph.integers(2), name="features.sum")
    mean = graph.node("Div", total, count, name="features.mean")
    centred = graph.node("Sub", features, mean, name="features.unmasked")
    centred = graph.node("Mul", centred, mask, name="features.centred")
    squares = graph.node("Mul", centred, centred, name="features.squares")
    total = graph.node("ReduceSum", squares, graph.integers(1, 2), name="features.squares.sum")
    numbers = graph.node("Mul", count, graph.number(mels), name="features.numbers")
    variance = graph.node("Div", total, numbers, name="features.variance")
    deviation = graph.node("Sqrt", variance, name="features.deviation")
    divisor = graph.node("Add", deviation, graph.number(1e-3), name="features.divisor")
    return graph.node("Div", centred, divisor, name="features.normalised")
