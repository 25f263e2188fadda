"""What one core can do: its speed in matrix products and in copying memory, and the least that a model must take on it.

Run as a module it measures both in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from asr_bench.measure import answer_request
from asr_bench.operations import Count

SIDE = 1024  # of the square matrices: large enough for full speed, small enough for a cache
COPIED = 1 << 27  # bytes: beyond any cache
LEAST = 0.5  # processor seconds of each measurement


def least_seconds(counted: Count, core: Mapping[str, float]) -> float:
    """Processor seconds that a run must take: the longer of what its operations and what its weights' bytes take."""
    return max(counted.matrix_operations / core["matrix_speed"], counted.weight_bytes / core["memory_speed"])


def speeds() -> dict[str, float]:
    """Operations and bytes a second of this thread."""
    return {"matrix_speed": matrix_speed(), "memory_speed": memory_speed()}


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
    """The speeds, whatever the request."""
    return dict(speeds())


if __name__ == "__main__":
    answer_request(answer)
