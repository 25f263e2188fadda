"""A model that really recognises, small enough to read: it hears each character as a tone of its own.

The graph (a Fourier transform at 29 frequencies, energies, log-softmax) has the signature of every bundle's model. So
a sentence spelt in tones goes the whole way from a recording to text in a few milliseconds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from asr_runtime.bundle import Manifest, NewFile, write_bundle

RATE = 16000
FRAME = 640  # samples: 40 ms
TOKENS = ("'", " ", *"abcdefghijklmnopqrstuvwxyz", "")
HERTZ = 300 + 125 * np.arange(len(TOKENS) - 1)  # each a whole number of periods in a frame


def tone_model() -> onnx.ModelProto:
    angle = 2 * np.pi * HERTZ[:, None] * np.arange(FRAME) / RATE
    kernels = np.concatenate([np.cos(angle), np.sin(angle)])[:, None] / FRAME
    energy = np.concatenate([np.eye(len(HERTZ))] * 2).T  # adds the squares of cosine and sine
    weights = {
        "kernels": kernels.astype(np.float32),
        "to_energy": (400 * np.pad(energy, ((0, 1), (0, 0))))[..., None].astype(np.float32),
        "quiet": np.array([0] * len(HERTZ) + [4], np.float32),  # the blank wins where nothing sounds
        "margin": np.array([0, 0, 0, FRAME - 1], np.int64),
        "channel": np.array([1], np.int64),
        "two": np.array(2, np.float32),
        "margin_length": np.array(FRAME - 1, np.int64),
        "frame": np.array(FRAME, np.int64),
    }
    nodes = [
        helper.make_node("Pad", ["waveform", "margin"], ["padded"]),
        helper.make_node("Unsqueeze", ["padded", "channel"], ["signal"]),
        helper.make_node("Conv", ["signal", "kernels"], ["spectrum"], strides=[FRAME]),
        helper.make_node("Pow", ["spectrum", "two"], ["squares"]),
        helper.make_node("Conv", ["squares", "to_energy", "quiet"], ["logits"]),
        helper.make_node("Transpose", ["logits"], ["by_frame"], perm=[0, 2, 1]),
        helper.make_node("LogSoftmax", ["by_frame"], ["log_probs"], axis=-1),
        helper.make_node("Add", ["lengths", "margin_length"], ["rounded"]),
        helper.make_node("Div", ["rounded", "frame"], ["frames"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tones",
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "frames", len(TOKENS)]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


TONES = Manifest(
    name="tones", language="en", licence="CC0-1.0", sample_rate=RATE, tokens=TOKENS, frame_seconds=FRAME / RATE
)


@pytest.fixture(scope="session")
def tone_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder bundle of the model above."""
    folder = tmp_path_factory.mktemp("bundles")
    onnx.save(tone_model(), folder / "model.onnx")
    write_bundle(
        folder / "tones",
        TONES,
        [NewFile(source=folder / "model.onnx", role="model", engine="onnx", precision="fp32")],
    )
    return folder / "tones"


@pytest.fixture(scope="session")
def spell() -> Callable[[str], np.ndarray]:
    """Samples [n] that the model above hears as `text`: 80 ms of tone and 40 ms of silence for each character."""

    def in_tones(text: str) -> np.ndarray:
        time = np.arange(2 * FRAME) / RATE
        silence = np.zeros(FRAME)
        parts = [np.r_[0.3 * np.sin(2 * np.pi * HERTZ[TOKENS.index(char)] * time), silence] for char in text]
        return np.concatenate([silence, *parts]).astype(np.float32)

    return in_tones
