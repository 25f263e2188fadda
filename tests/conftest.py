"""Inputs that several test folders share."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from asr_runtime.bundle import Manifest, NewFile, write_bundle

RATE = 16000

# Started in the background by a script, the tests would ignore Ctrl-C, and so would the programs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_call() -> None:
    """Before each test: training makes its process flush subnormal numbers, which hypothesis draws."""
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


SENTENCES = [
    "a cat sat",
    "the dog ran home",
    "it's late",
    "come and see",
    "no one knew",
    "see the cat",
    "we ran",
    "at home",
]


def spoken(text: str, seconds: float = 0.12, seed: int = 0) -> np.ndarray:
    """A language that a small model learns in seconds: each character is a chord of its own; float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    parts = [np.zeros(RATE // 10)]
    for character in text:
        tones = () if character == " " else (300 + 70 * (ord(character) % 13), 1500 + 350 * (ord(character) % 11))
        parts.append(sum((np.sin(2 * np.pi * tone * time) for tone in tones), np.zeros(len(time))) * fade * 0.2)
    samples = np.concatenate([*parts, np.zeros(RATE // 10)])
    return (samples + rng.normal(0, 0.003, len(samples))).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of eight short recordings in the language of `spoken`."""
    folder = tmp_path_factory.mktemp("tiny")
    rows = []
    for number, text in enumerate(SENTENCES):
        samples = spoken(text, seed=number)
        soundfile.write(folder / f"{number}.flac", samples, RATE)
        row = {
            "audio": f"{number}.flac",
            "text": text,
            "duration": len(samples) / RATE,
            "speaker": "s",
            "source": "chords",
        }
        rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "train.jsonl"


@pytest.fixture
def one_sentence() -> Callable[[str], None]:
    """A check that a message for a user is one line that is no traceback."""

    def check(message: str) -> None:
        assert message.strip(), "the message is empty"
        assert len(message.strip().splitlines()) == 1, message
        assert "Traceback" not in message

    return check


# --- a model that really recognises, small enough to read: it hears each character as a tone of its own ----
#
# The graph (a Fourier transform at 28 frequencies, energies, log-softmax) has the signature of every bundle's model. So
# a sentence spelt in tones goes the whole way from a recording to text in a few milliseconds.

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


ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-9\t<unk>
-99\t<s>\t0
-1\t</s>
-0.3\tcat\t0
-3\tcut\t0

\\2-grams:
-0.3\t<s> cat

\\end\\
"""


@pytest.fixture(scope="session")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that has heard much of a "cat" and little of a "cut"."""
    path = tmp_path_factory.mktemp("arpa") / "cats.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture(scope="session")
def cat_or_cut(spell: Callable[[str], np.ndarray]) -> np.ndarray:
    """Samples that the tone model hears as "cut", but nearly as well as "cat"."""
    return (0.94 * spell("cat") + 1.06 * spell("cut")).astype(np.float32)
