"""Operations and bytes against counts by hand, and the roofline of a bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from asr_bench.operations import count
from asr_bench.scenarios.roofline import figures
from asr_runtime.errors import EngineError

Bench = Callable[..., CompletedProcess[str]]


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> Path:
    """A model on the inputs that all models have; what it gives is not looked at."""
    graph = helper.make_graph(
        nodes,
        "counted",
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_convolution_and_a_product(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "one"], ["signal"]),
        helper.make_node("Conv", ["signal", "kernels"], ["channels"], strides=[10]),
        helper.make_node("Transpose", ["channels"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("Cast", ["half"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["frames", "full"], ["product"]),
        helper.make_node("Relu", ["product"], ["result"]),
    ]
    weights = {
        "one": np.array([1], np.int64),
        "kernels": np.ones((6, 1, 10), np.float32),
        "half": np.ones((6, 5), np.float16),
    }
    counted = count(save(tmp_path / "m.onnx", nodes, weights), batch=2, seconds=0.1, rate=1000)
    frames = 2 * 10  # of both recordings
    assert counted.audio_seconds == 0.2
    assert counted.matrix_operations == 2 * frames * (6 * 10 + 6 * 5)
    assert counted.other_operations == frames * 5
    assert counted.weight_bytes == 4 * (6 * 10 + 6 * 5)  # cast once, when it is loaded
    conv, transposed, product, relu = (2 * 100 + frames * 6), 2 * frames * 6, frames * (6 + 5), 2 * frames * 5
    assert counted.activation_bytes == 4 * (conv + transposed + product + relu)


def test_a_recurrent_layer_reads_its_weights_at_every_step(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "ends"], ["steps"]),  # one step for each of the batch
        helper.make_node("GRU", ["steps", "w", "r"], ["states"], hidden_size=4),
    ]
    weights = {
        "ends": np.array([1], np.int64),
        "w": np.ones((1, 12, 7), np.float32),
        "r": np.ones((1, 12, 4), np.float32),
    }
    counted = count(save(tmp_path / "m.onnx", nodes, weights), batch=5, seconds=7, rate=1)
    assert counted.matrix_operations == 2 * 5 * 12 * (7 + 4)
    assert counted.weight_bytes == 4 * (12 * 7 + 5 * 12 * 4)


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["waveform"], ["sum"], equation="ij->i")]
    with pytest.raises(EngineError, match=r"m\.onnx has Einsum nodes"):
        count(save(tmp_path / "m.onnx", nodes, {}), 1, 1, 16000)


def test_the_limit_is_the_slower_of_both(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["waveform", "w"], ["result"])]
    counted = count(save(tmp_path / "m.onnx", nodes, {"w": np.ones((100, 50), np.float32)}), 1, 1, 100)
    told = {"seconds": 1e-3, "matrix_speed": 1e9, "memory_speed": 1e9}
    found = figures(counted, told)
    assert found["limit_seconds"] == pytest.approx(20_000 / 1e9)  # bytes of weights; the operations are 10,000
    assert found["share"] == pytest.approx(0.02)
    slow_matrix = figures(counted, {**told, "matrix_speed": 1e8})
    assert slow_matrix["limit_seconds"] == pytest.approx(10_000 / 1e8)


def test_the_roofline_of_a_bundle(bench: Bench, tone_bundle: Path, tmp_path: Path) -> None:
    done = bench("roofline", tone_bundle, "--batch-size", 1, "--rounds", 1, "--seconds", 1, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads((tmp_path / "roofline.json").read_text())["points"]
    rounds = {name: values[0] for name, values in point["rounds"].items()}
    # 28 frequencies, cosine and sine, over 640 samples, and 56 x 29 energies, 25 times a second.
    assert rounds["operations"] == pytest.approx(2 * 25 * (56 * 640 + 56 * 29) / 1e9, rel=0.05)
    assert 0 < rounds["share"] < 1
    assert rounds["matrix_gflops"] > 1 < rounds["memory_gbytes"]
    assert "GFLOP/s of the core" in done.stdout


def test_a_precision_that_is_not_there(bench: Bench, tone_bundle: Path, tmp_path: Path) -> None:
    done = bench("roofline", tone_bundle, "--precision", "int3", "--output", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no ONNX model in int3" in done.stderr
