"""How near the engine comes to what the machine can do (Williams et al. 2009), on one core.

The model's operations and bytes are counted, the core's matrix and memory speed measured beside the engine, all in
processor seconds. Run as a module it is one round, in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from asr_bench.core import least_seconds, seconds_of, speeds
from asr_bench.measure import answer_request, run_child
from asr_bench.operations import Count, count
from asr_bench.results import Point, point
from asr_bench.task import Task
from asr_runtime import engines
from asr_runtime.bundle import Bundle
from asr_runtime.errors import EngineError


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
    """What a round says."""
    audio, least = counted.audio_seconds, least_seconds(counted, told)
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
        "limit_seconds": least / audio,
        "share": least / told["seconds"],
    }


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
        **speeds(),
    }


if __name__ == "__main__":
    answer_request(answer)
