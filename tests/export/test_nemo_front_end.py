"""The front end of NeMo's models: against onnx-asr's own, and against one written here without convolutions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from asr_export.builder import GraphBuilder
from asr_export.importers.nemo_front_end import NemoFrontEnd, nemo_features, settings
from asr_export.signals import padded
from asr_runtime.audio import read_audio

LENGTHS = [16_000, 52_345, 8_161, 800, 485]
SAMPLE = Path(__file__).parents[2] / "samples" / "quick-and-eager.ogg"


def graph_features(front_end: NemoFrontEnd, waveform: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The nodes alone, on ONNX Runtime: [mels, frames] of each item."""
    import onnxruntime

    graph = GraphBuilder()
    nemo_features(graph, "waveform", "lengths", front_end)
    shapes = {"waveform": ("batch", "samples"), "lengths": ("batch",)}
    kinds = {"waveform": TensorProto.FLOAT, "lengths": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in shapes]
    outputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", front_end.config.mels, "most"]),
        helper.make_tensor_value_info("feature_frames", TensorProto.INT64, ["batch"]),
    ]
    model = graph.finish(inputs, outputs, {})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features, frames = session.run(None, {"waveform": waveform, "lengths": lengths})
    for row, count in zip(features, frames, strict=True):
        assert not row[:, count:].any()
    return [row[:, :count] for row, count in zip(features, frames, strict=True)]


def items() -> list[np.ndarray]:
    """A real recording from its begin on, over a little noise: where a band holds next to nothing, the logarithm shows
    float32's own rounding, by which onnx-asr's NumPy and ONNX front ends differ from each other, too.
    """
    recording = np.tile(read_audio(SAMPLE, 16_000), 2)
    noise = np.random.default_rng(1).normal(0, 3e-3, len(recording)).astype(np.float32)
    return [(recording + noise)[:length] for length in LENGTHS]


@pytest.mark.parametrize("mels", [80, 128])
def test_features_are_those_of_onnx_asr(mels: int) -> None:
    pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    from onnx_asr.preprocessors.numpy_preprocessor import NemoPreprocessorNumpy

    theirs = NemoPreprocessorNumpy(f"nemo{mels}")
    front_end = NemoFrontEnd(settings(mels, 0.025, True))
    batch = padded(items())
    ours = graph_features(front_end, batch, np.array(LENGTHS))
    for item, found in zip(items(), ours, strict=True):
        expected, (count,) = theirs(item[None], np.array([len(item)]))
        assert found.shape == (mels, count)
        np.testing.assert_allclose(found, expected[0, :, :count], atol=1e-4, rtol=0)


def written_here(waveform: np.ndarray, mels: int, window: int, normalise: bool) -> np.ndarray:
    """[mels, frames] with torch's Fourier transform and triangles one by one, in float64."""
    sharp = torch.from_numpy(waveform).double()
    sharp[1:] -= 0.97 * sharp[:-1].clone()
    shape = torch.hann_window(window, periodic=False, dtype=torch.float64)
    kept = {"center": True, "pad_mode": "constant", "return_complex": True}
    power = torch.stft(sharp, 512, 160, window, shape, **kept).abs() ** 2

    def hertz(mel: float) -> float:
        return 200 / 3 * mel if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)

    top = 15 + math.log(8) / (math.log(6.4) / 27)
    points = [hertz(mel) for mel in np.linspace(0, top, mels + 2)]
    bins, bands = np.arange(257) * 16_000 / 512, []
    for low, middle, high in zip(points, points[1:], points[2:], strict=False):
        triangle = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
        bands.append(np.log(2 / (high - low) * triangle @ power.numpy() + 2**-24))
    features = np.stack(bands)[:, : len(waveform) // 160]
    if not normalise:
        return features
    mean, deviation = features.mean(1, keepdims=True), features.std(1, ddof=1, keepdims=True)
    return (features - mean) / (deviation + 1e-5)


@pytest.mark.parametrize(("mels", "window"), [(64, 320), (80, 400)])
@pytest.mark.parametrize("normalise", [True, False])
def test_features_are_what_the_description_says(mels: int, window: int, normalise: bool) -> None:
    front_end = NemoFrontEnd(settings(mels, window / 16_000, normalise))
    found = graph_features(front_end, padded(items()), np.array(LENGTHS))
    for item, ours in zip(items(), found, strict=True):
        np.testing.assert_allclose(ours, written_here(item, mels, window, normalise), atol=1e-4, rtol=0)


def test_nodes_and_module_agree_on_the_shortest_items() -> None:
    front_end, lengths = NemoFrontEnd(settings(80, 0.025, True)), np.array([0, 1, 159, 160, 319, 320, 480])
    batch = padded([items()[0][:length] for length in lengths])
    features, frames = front_end(torch.from_numpy(batch), torch.from_numpy(lengths))
    found = graph_features(front_end, batch, lengths)
    assert frames.tolist() == [2, 2, 2, 2, 2, 2, 3]
    for row, count, ours in zip(features, frames, found, strict=True):
        np.testing.assert_allclose(ours, row[:count].T, atol=1e-4)
        alone = front_end(torch.from_numpy(batch[:1, :0]), torch.tensor([0]))[0]
        assert not alone.isnan().any()
