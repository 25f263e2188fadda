"""Engines: the signature is checked, padding changes nothing, and no device is taken for another."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper

from asr_runtime import engines
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle
from asr_runtime.engines import pad
from asr_runtime.engines.onnx import OnnxEngine
from asr_runtime.errors import BundleError, EngineError


@pytest.fixture(scope="session")
def engine(tone_bundle: Path) -> OnnxEngine:
    return OnnxEngine(Bundle.load(tone_bundle))


def test_log_probabilities_sum_to_one_and_frames_follow_the_lengths(
    engine: OnnxEngine, spell: Callable[[str], np.ndarray]
) -> None:
    waveforms, lengths = pad([spell("hello"), spell("a"), np.zeros(1, np.float32)])
    results = engine.log_probs(waveforms, lengths)
    assert [row.shape for row in results] == [(16, 29), (4, 29), (1, 29)]
    for row in results:
        np.testing.assert_allclose(np.exp(row).sum(axis=1), 1, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_padding_and_neighbours_change_nothing(engine: OnnxEngine, lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    waveforms = [random.uniform(-0.5, 0.5, length).astype(np.float32) for length in lengths]
    for together, waveform in zip(engine.log_probs(*pad(waveforms)), waveforms, strict=True):
        (alone,) = engine.log_probs(*pad([waveform]))
        np.testing.assert_allclose(together, alone, atol=1e-4)


@given(st.lists(npst.arrays(np.float32, st.integers(0, 50), elements=st.floats(-1, 1, width=32)), max_size=6))
def test_pad_keeps_every_sample(waveforms: list[np.ndarray]) -> None:
    padded, lengths = pad(waveforms)
    assert (padded.dtype, lengths.dtype) == (np.float32, np.int64)
    for row, length, waveform in zip(padded, lengths, waveforms, strict=True):
        np.testing.assert_array_equal(row[:length], waveform)
        assert not row[length:].any()


@pytest.mark.parametrize(
    ("waveforms", "lengths"),
    [
        (np.zeros((1, 100), np.float32), np.array([101])),
        (np.zeros((1, 100), np.float32), np.array([-1])),
        (np.zeros((1, 100), np.float32), np.array([100, 100])),
        (np.zeros((1, 100), np.float32), np.array([100], np.int32)),
        (np.zeros((1, 100), np.float64), np.array([100])),
        (np.zeros(100, np.float32), np.array([100])),
    ],
)
def test_batches_that_the_graph_would_take_in_silence(
    engine: OnnxEngine, waveforms: np.ndarray, lengths: np.ndarray
) -> None:
    with pytest.raises(EngineError, match="give"):
        engine.log_probs(waveforms, lengths)


def test_a_model_that_takes_no_padding_gets_none(tone_bundle: Path, tmp_path: Path) -> None:
    made = Bundle.load(tone_bundle)
    model = NewFile(source=made.path(made.files[0]), role="model", engine="onnx", precision="fp32")
    plain = Manifest(**{name: getattr(made, name) for name in Manifest.__dataclass_fields__} | {"padding": False})
    bundle = write_bundle(tmp_path / "tones", plain, [model])
    with pytest.raises(EngineError, match="TensorRT's runner pads"):
        engines.choose(bundle, "tensorrt")
    engine = OnnxEngine(bundle)
    assert len(engine.log_probs(*pad([np.zeros(900, np.float32)] * 2))) == 2
    with pytest.raises(EngineError, match="give recordings of one length"):
        engine.log_probs(*pad([np.zeros(900, np.float32), np.zeros(899, np.float32)]))


# --- devices ---------------------------------------------------------------------------------------------------------


def test_auto_says_what_it_took(tone_bundle: Path) -> None:
    engine = engines.choose(Bundle.load(tone_bundle))
    assert engine.device == "cpu"
    assert engine.description == f"ONNX Runtime {onnxruntime.__version__}, fp32"


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "tpu"])
def test_a_device_that_cannot_be_had_is_an_error(tone_bundle: Path, device: str) -> None:
    with pytest.raises(EngineError, match=device):
        engines.choose(Bundle.load(tone_bundle), device)


def test_a_precision_that_the_bundle_lacks(tone_bundle: Path) -> None:
    with pytest.raises(EngineError, match="no ONNX model in int8; it has onnx fp32"):
        engines.choose(Bundle.load(tone_bundle), precision="int8")


def test_without_onnx_runtime_it_says_what_to_install(tone_bundle: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from asr_runtime import load, EngineError\n"
        "try: load(sys.argv[1])\n"
        "except EngineError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tone_bundle)], capture_output=True, text=True, check=True)
    assert "pip install 'asr-deploy[cpu]'" in done.stdout


def test_an_interrupt_while_onnx_runtime_is_imported_stays_one(tone_bundle: Path, tmp_path: Path) -> None:
    """Compiled modules turn it into ImportError."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('initialization failed') from KeyboardInterrupt()")
    code = "import sys, asr_runtime\ntry: asr_runtime.load(sys.argv[1])\nexcept KeyboardInterrupt: print('interrupted')"
    command, environment = [sys.executable, "-c", code, str(tone_bundle)], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "interrupted\n"


# --- models ----------------------------------------------------------------------------------------------------------


def bundle_of(folder: Path, tokens: tuple[str, ...], content: bytes) -> Bundle:
    (folder / "model.onnx").write_bytes(content)
    manifest = Manifest(name="m", language="en", licence="x", sample_rate=16000, tokens=tokens, frame_seconds=0.04)
    file = NewFile(source=folder / "model.onnx", role="model", engine="onnx", precision="fp32")
    return write_bundle(folder / "bundle", manifest, [file], force=True)


def graph_model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[object]]], outputs: object) -> bytes:
    def infos(ports: object) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *kind) for name, kind in ports.items()]  # type: ignore[attr-defined]

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


SPEECH = {"waveform": (TensorProto.FLOAT, ["b", "n"]), "lengths": (TensorProto.INT64, ["b"])}
TEXT = {"log_probs": (TensorProto.FLOAT, ["b", "n", "v"]), "frames": (TensorProto.INT64, ["b"])}


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx: ONNX Runtime cannot load"):
        OnnxEngine(bundle_of(tmp_path, ("a", ""), b"no protobuf at all"))


def test_a_model_with_another_signature_is_refused(tmp_path: Path) -> None:
    identity = [helper.make_node("Identity", ["features"], ["out"])]
    port = {"features": (TensorProto.FLOAT, ["b", "t", 80])}
    model = graph_model(identity, port, {"out": (TensorProto.FLOAT, ["b", "t", 80])})
    with pytest.raises(EngineError, match="features"):
        OnnxEngine(bundle_of(tmp_path, ("a", ""), model))


def copying_model(frames: str = "lengths") -> bytes:
    """Its "log-probabilities" are the samples themselves, the same for both tokens."""
    nodes = [
        helper.make_node("Constant", [], ["last"], value_ints=[2]),
        helper.make_node("Unsqueeze", ["waveform", "last"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["log_probs"], axis=2),
        helper.make_node("Add", ["lengths", "lengths"], ["double"]),
        helper.make_node("Identity", [frames], ["frames"]),
    ]
    return graph_model(nodes, SPEECH, TEXT)


def test_a_model_for_other_tokens_is_refused(tmp_path: Path) -> None:
    engine = OnnxEngine(bundle_of(tmp_path, ("a", ""), copying_model()))
    engine._tokens = 3  # as where the graph leaves their number open
    with pytest.raises(EngineError, match=r"\[1, 5, 2\].*\[1, frames, 3\]"):
        engine.log_probs(*pad([np.zeros(5, np.float32)]))


def test_a_model_whose_signature_has_other_tokens_is_refused_at_once(tone_bundle: Path, tmp_path: Path) -> None:
    content = (tone_bundle / "model.onnx").read_bytes()
    with pytest.raises(EngineError, match="for 29 tokens where the bundle has 2"):
        OnnxEngine(bundle_of(tmp_path, ("a", ""), content))


@pytest.mark.parametrize(
    ("name", "text"), [("tokens", '["b", ""]'), ("tokens", "["), ("sample_rate", "8000"), ("frame_seconds", "0.02")]
)
def test_a_bundle_that_disagrees_with_its_model_is_refused(tmp_path: Path, name: str, text: str) -> None:
    right = {"tokens": '["a", ""]', "sample_rate": "16000", "frame_seconds": "0.04"}
    model = onnx.load_from_string(copying_model())
    helper.set_model_props(model, right)
    OnnxEngine(bundle_of(tmp_path, ("a", ""), model.SerializeToString()))
    helper.set_model_props(model, {**right, name: text})
    with pytest.raises(BundleError, match=f"has {name} "):
        OnnxEngine(bundle_of(tmp_path, ("a", ""), model.SerializeToString()))


def test_more_frames_than_there_are_and_nan_are_refused(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("a", ""), copying_model("double"))
    engine = OnnxEngine(bundle)
    with pytest.raises(EngineError, match="10 of 5 frames"):
        engine.log_probs(*pad([np.zeros(5, np.float32)]))
    engine = OnnxEngine(bundle_of(tmp_path, ("a", ""), copying_model()))
    with pytest.raises(EngineError, match="NaN"):
        engine.log_probs(*pad([np.full(5, np.nan, np.float32)]))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "weights.bin"])
def test_weights_outside_the_model_file_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4)
    model = onnx.load_from_string(copying_model())
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    model.graph.initializer.append(weight)
    model.graph.node.append(helper.make_node("Identity", ["w"], ["unused"]))
    model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1]))
    with pytest.raises(EngineError, match="cannot load"):
        OnnxEngine(bundle_of(tmp_path, ("a", ""), model.SerializeToString()))
