"""Offline throughput: all files as fast as they go, by device, precision, threads and batch size, others beside.

Run as a module it is one such measurement, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from asr_bench import core, gpu, systems
from asr_bench.core import least_seconds
from asr_bench.measure import answer_request, run_child
from asr_bench.operations import count
from asr_bench.results import Point, point
from asr_bench.scenarios.accuracy import text_rates
from asr_bench.systems import OURS, Entry, Setting
from asr_bench.task import Task
from asr_runtime.bundle import Bundle
from asr_runtime.errors import EngineError
from asr_runtime.windows import WINDOW_SECONDS


def throughput(task: Task) -> list[Point]:
    """Everything at its settings over all recordings; rounds interleaved."""
    answers: list[list[dict[str, Any]]] = [[] for _ in task.pairs]
    seconds = sum(task.seconds)
    for number in range(task.rounds):
        for told, (entry, setting) in zip(answers, task.pairs, strict=True):
            found, process = run_child(__name__, {**entry.request(setting), "files": task.files})
            found["real_time_factor"] = found["wall_seconds"] / seconds
            found["cpu_per_audio_second"] = found["cpu_seconds"] / seconds
            told.append({**found, "peak_mb": process.peak_mb})
            task.told(number, setting, f"real-time factor {found['real_time_factor']:.4f}")
    speeds, _ = run_child(core.__name__, {"core": "this"})
    return [
        point(
            setting,
            told,
            device_used=told[0]["device"],
            rates=text_rates(task.utterances, told[-1]["texts"]),
            **_limit(entry, setting, speeds, seconds / len(task.seconds), told),
        )
        for told, (entry, setting) in zip(answers, task.pairs, strict=True)
    ]


def _limit(
    entry: Entry, setting: Setting, speeds: dict[str, float], seconds: float, told: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Of our bundle on a processor, what its model must take for recordings of so many seconds, and our share of it.

    Others' models, and those with nodes that cannot be counted, have none.
    """
    bundle = Bundle.load(Path(entry.model)) if entry.system == OURS and setting["device"] == "cpu" else None
    file = bundle and bundle.find("model", engine="onnx", precision=setting["precision"] or None)
    if not bundle or not file:
        return {}
    try:
        counted = count(bundle.path(file), setting["batch_size"], min(seconds, WINDOW_SECONDS), bundle.sample_rate)
    except EngineError:
        return {}
    least = least_seconds(counted, speeds) / counted.audio_seconds
    share = least / median(each["cpu_per_audio_second"] for each in told)
    return {"limit": {"cpu_per_audio_second": round(least, 6), "share": round(share, 4)}}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load a recogniser and transcribe files; the first file apart, since it pays for what is done once."""
    files = request["files"]
    begin = perf_counter()
    system = systems.load(request)
    loaded = perf_counter()
    list(system.texts(files[:1]))
    warm = perf_counter()
    with gpu.watched() as figures:
        begun, cpu = perf_counter(), process_time()
        texts = list(system.texts(files))
        wall, cpu = perf_counter() - begun, process_time() - cpu
    return {
        "device": system.device,
        "load_seconds": loaded - begin,
        "first_file_seconds": warm - loaded,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "texts": texts,
        **figures,
    }


if __name__ == "__main__":
    answer_request(answer)
