"""How near the engine comes to what the machine can do (Williams et al. 2009), on one core.

The model's operations and bytes are counted, the core's matrix and memory speed measured beside the engine, all in
processor seconds. Run as a module it is one round, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from asr_bench.measure import answer_request, run_child
from asr_bench.operations import Count, count
from asr_bench.results import Point, point
from asr_bench.task import Task
from asr_runtime import engines
from asr_runtime.bundle import Bundle
from asr_runtime.errors import EngineError

SIDE = 1024  # of the square matrices: large enough for full speed, small enough for a cache
COPIED = 1 << 27  # bytes: beyond any cache
LEAST = 0.5  # processor seconds of each measurement


def roofline(task: Task, seconds: float) -> list[Point]:
    """The share of the limit that is reached, for each precision and batch size, on recordings of so many seconds."""
    bundle = Bundle.load(task.bundle)
    points = []
    for entry, setting in task.pairs:
        file = bundle.find("model", engine="onnx", precision=setting["precision"] or None)
        if file is None:
            raise EngineError(f"the bundle {bundle.name} has no ONNX model in {setting['precision']}.")
        counted = count(bundle.path(file), setting["batch_size"], seconds, bundle.sample_rate)
        rounds = []
        for number in range(task.rounds):
            told, _ = run_child(__name__, {**entry.request(setting), "seconds": seconds})
            rounds.append(figures(counted, told))
            task.told(number, setting, f"{100 * rounds[-1]['share']:.0f} % of the limit")
        key = {**setting, "precision": file.precision, "audio_seconds": seconds}
        points.append(point(key, rounds, device_used=told["device"], sample_seconds=counted.audio_seconds))
    return points


def figures(counted: Count, told: dict[str, float]) -> dict[str, float]:
    """What a round says; the limit is the longer of what the operations and what the weights' bytes must take."""
    audio = counted.audio_seconds
    seconds_of_operations = counted.matrix_operations / told["matrix_speed"]
    seconds_of_bytes = counted.weight_bytes / told["memory_speed"]
    moved = counted.weight_bytes + counted.activation_bytes
    return {
        "cpu_per_audio_second": told["seconds"] / audio,
        "operations": counted.matrix_operations / audio / 1e9,
        "weights_mb": counted.weight_bytes / audio / 1e6,
        "activations_mb": counted.activation_bytes / audio / 1e6,
        "intensity": (counted.matrix_operations + counted.other_operations) / moved,
        "gflops": counted.matrix_operations / told["seconds"] / 1e9,
        "matrix_gflops": told["matrix_speed"] / 1e9,
        "memory_gbytes": told["memory_speed"] / 1e9,
        "limit_seconds": max(seconds_of_operations, seconds_of_bytes) / audio,
        "share": max(seconds_of_operations, seconds_of_bytes) / told["seconds"],
    }


def matrix_speed() -> float:
    """Operations a second of ONNX Runtime's float32 matrix product on this thread."""
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, SIDE, SIDE)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, [SIDE, SIDE])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [SIDE, SIDE])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2 * SIDE**3 / seconds_of(lambda: session.run(None, {"left": left}))


def memory_speed() -> float:
    """Bytes a second read and written together by a copy on this thread."""
    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    return 2 * COPIED / seconds_of(lambda: np.copyto(target, source))


def seconds_of(work: Callable[[], object]) -> float:
    """The least processor seconds of this thread for `work`, of as many times as LEAST holds, at least three."""
    work()
    found, end = list[float](), perf_counter() + LEAST
    while len(found) < 3 or perf_counter() < end:
        begin = thread_time()
        work()
        found.append(thread_time() - begin)
    return min(found)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of the engine on a batch, and this core's speeds."""
    setting, bundle = request["setting"], Bundle.load(Path(request["model"]))
    engine = engines.choose(bundle, "cpu", precision=setting["precision"] or None)
    samples = round(request["seconds"] * bundle.sample_rate)
    batch = np.random.default_rng(0).normal(0, 0.1, (setting["batch_size"], samples)).astype(np.float32)
    lengths = np.full(len(batch), samples, np.int64)
    return {
        "device": f"{engine.device} ({engine.description})",
        "seconds": seconds_of(lambda: engine.log_probs(batch, lengths)),
        "matrix_speed": matrix_speed(),
        "memory_speed": memory_speed(),
    }


if __name__ == "__main__":
    answer_request(answer)
