"""Offline throughput: all files as fast as they go, by device, precision, threads and batch size, others beside.

Run as a module it is one such measurement, in a process of its own.
"""

from __future__ import annotations

from time import perf_counter, process_time
from typing import Any

from asr_bench import gpu, systems
from asr_bench.measure import answer_request, run_child
from asr_bench.results import Point, point
from asr_bench.scenarios.accuracy import text_rates
from asr_bench.task import Task


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
    return [
        point(setting, told, device_used=told[0]["device"], rates=text_rates(task.utterances, told[-1]["texts"]))
        for told, (_, setting) in zip(answers, task.pairs, strict=True)
    ]


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
