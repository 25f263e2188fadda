"""Peak memory by the length of a recording.

Run as a module it transcribes one recording in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import soundfile

from asr_bench import systems
from asr_bench.measure import answer_request, run_child
from asr_bench.results import Point, point
from asr_bench.task import Task
from asr_runtime.audio import Samples, read_audio

RATE = 16000  # hertz of the recordings that are made


def memory(task: Task, lengths: Sequence[float]) -> list[Point]:
    """Everything at its settings on recordings of so many seconds, joined from those of the manifest."""
    answers: dict[tuple[int, float], list[dict[str, Any]]] = {}
    with TemporaryDirectory() as folder:
        paths = {seconds: join(task.files, seconds, Path(folder) / f"{seconds:g}.flac") for seconds in lengths}
        for number in range(task.rounds):
            for seconds, path in paths.items():
                for place, (entry, setting) in enumerate(task.pairs):
                    told, process = run_child(__name__, {**entry.request(setting), "file": str(path)})
                    told["real_time_factor"] = told["wall_seconds"] / seconds
                    answers.setdefault((place, seconds), []).append({**told, "peak_mb": process.peak_mb})
                    task.told(number, {**setting, "seconds": seconds}, f"{process.peak_mb:.0f} MB")
    return [
        point({**task.pairs[place][1], "audio_seconds": seconds}, told, device_used=told[0]["device"])
        for (place, seconds), told in sorted(answers.items(), key=lambda item: item[0])
    ]


def join(files: Sequence[str], seconds: float, path: Path) -> Path:
    """Write a recording of exactly so many seconds, of `files` one behind the other and again."""
    left = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as out:
        for samples in _endless(files):
            out.write(np.clip(samples[:left], -1, 1))
            left -= len(samples)
            if left <= 0:
                return path
    return path


def _endless(files: Sequence[str]) -> Iterator[Samples]:
    for file in cycle(files):
        yield read_audio(file, RATE)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load, transcribe, and say what was resident in between."""
    system = systems.load(request)
    loaded = resident()
    begin = perf_counter()
    list(system.texts([request["file"]]))
    return {"device": system.device, **loaded, "wall_seconds": perf_counter() - begin}


def resident() -> dict[str, float]:
    """Memory that this process holds now, in MB, where the system tells (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return {"loaded_mb": kib * 1024 / 1e6}


if __name__ == "__main__":
    answer_request(answer)
