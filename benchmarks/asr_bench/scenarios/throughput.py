"""How fast a bundle is: real-time factor by threads and batch, start-up and memory, each in a process of its own.

Run as a module it is such a process: it answers one request (JSON, argument) with one result (JSON, standard output).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from asr_bench.measure import run_child, run_process
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import load


def throughput(
    bundle: Path, files: Sequence[Path], threads: Sequence[int], batches: Sequence[int], rounds: int, settings: Any
) -> list[dict[str, Any]]:
    """Offline: all files, for each number of threads and batch size; medians over interleaved rounds."""
    grid = [(count, size) for count in threads for size in batches]
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {point: [] for point in grid}
    for _ in range(rounds):
        for count, size in grid:
            request = {
                "bundle": str(bundle),
                "files": [str(file) for file in files],
                "options": {"threads": count, "batch_size": size, **settings},
            }
            answer, process = run_child(__name__, request)
            runs[count, size].append({**answer, "peak_mb": process.peak_mb})
    return [{"threads": count, "batch_size": size, **_medians(runs[count, size])} for count, size in grid]


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = {key: median(run[key] for run in runs) for key in runs[0] if isinstance(runs[0][key], float)}
    audio = numbers["audio_seconds"]
    return {
        "device": runs[0]["device"],
        "real_time_factor": round(numbers["wall_seconds"] / audio, 5),
        "cpu_per_audio_second": round(numbers["cpu_seconds"] / audio, 5),
        "real_time_factor_range": [round(run["wall_seconds"] / audio, 5) for run in _by_wall(runs)],
        **{key: round(value, 3) for key, value in numbers.items()},
    }


def _by_wall(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(runs, key=lambda run: float(run["wall_seconds"]))
    return [ordered[0], ordered[-1]]


def cold_start(bundle: Path, file: Path, rounds: int, arguments: Sequence[str]) -> dict[str, float]:
    """From the start of an `asr-run` process to its end with one file's text; medians."""
    command = ["-c", "from asr_runtime.cli import main; main()", "--quiet", "--model", str(bundle), *arguments]
    runs = [run_process([*command, str(file)]) for _ in range(rounds)]
    return {
        "wall_seconds": round(median(run.wall for run in runs), 3),
        "wall_seconds_least": round(min(run.wall for run in runs), 3),
        "cpu_seconds": round(median(run.cpu for run in runs), 3),
        "peak_mb": round(median(run.peak_mb for run in runs), 1),
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load a bundle and transcribe files; the first file apart, since it pays for what is done once."""
    files = request["files"]
    begin = perf_counter()
    recognizer = load(request["bundle"], **request["options"])
    loaded = perf_counter()
    recognizer.transcribe(files[0])
    warm = perf_counter()
    audio_before, cpu_before = recognizer.seconds.audio, process_time()
    begun = perf_counter()
    for result in recognizer.results(files):
        if isinstance(result, AsrError):
            raise result
    wall = perf_counter() - begun
    return {
        "device": f"{recognizer.engine.device} ({recognizer.engine.description})",
        "load_seconds": loaded - begin,
        "first_file_seconds": warm - loaded,
        "audio_seconds": recognizer.seconds.audio - audio_before,
        "wall_seconds": wall,
        "cpu_seconds": process_time() - cpu_before,
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
