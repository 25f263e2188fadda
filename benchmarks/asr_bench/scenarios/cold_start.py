"""From the start of a process to the text of one recording, and where the time goes.

Run as a module it loads and transcribes in a process of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

from asr_bench import systems
from asr_bench.measure import answer_request, run_child, run_process
from asr_bench.results import Point, point
from asr_bench.task import Task
from asr_runtime.bundle import Bundle

SECONDS = 5.0  # of the recording: the one that is nearest to this
ASR_RUN = ["-c", "from asr_runtime.cli import main; main()", "--quiet"]
IMPORTS = ["-c", "import asr_runtime.recognizer, soundfile, soxr, onnxruntime"]


def cold_start(task: Task) -> list[Point]:
    """`asr-run` with the bundle in the system's page cache and dropped from it, and the parts of the former."""
    entry, setting = task.pairs[0]
    flags = [part for name, value in task.options.items() for part in _flag(name, value)]
    nearest = min(range(len(task.files)), key=lambda number: abs(task.seconds[number] - SECONDS))
    file, seconds = task.files[nearest], round(task.seconds[nearest], 2)
    command = [*ASR_RUN, "--model", str(task.bundle), "--threads", str(setting["threads"]), *flags, file]
    kept, dropped = [], []
    for number in range(task.rounds):
        drop_from_cache(task.bundle)
        dropped.append(_process(command))
        kept.append(_process(command) | _parts({**entry.request(setting), "file": file}))
        task.told(number, setting, f"{kept[-1]['wall_seconds']:.2f} s")
    key = {"system": "asr-run", "device": "cpu", "audio_seconds": seconds}
    return [point({**key, "bundle": "in memory"}, kept), point({**key, "bundle": "on the disk"}, dropped)]


def _flag(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    return [option] if value is True else [option, str(value)]


def _process(command: list[str]) -> dict[str, float]:
    process = run_process(command)
    return {"wall_seconds": process.wall, "cpu_seconds": process.cpu, "peak_mb": process.peak_mb}


def _parts(request: dict[str, Any]) -> dict[str, float]:
    """Seconds of Python itself, of the imports, of loading, and of the first recording."""
    interpreter, imports = run_process(["-c", "pass"]).wall, run_process(IMPORTS).wall
    told, _ = run_child(__name__, request)
    return {"interpreter_seconds": interpreter, "import_seconds": imports - interpreter, **told}


def drop_from_cache(bundle: Path) -> None:
    """Have the system forget the bundle's files, where it can; pages that another program maps stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in [bundle] if bundle.is_file() else [bundle / file.path for file in Bundle.load(bundle).files]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of loading, and of the first recording."""
    begin = perf_counter()
    system = systems.load(request)
    loaded = perf_counter()
    list(system.texts([request["file"]]))
    return {"load_seconds": loaded - begin, "first_file_seconds": perf_counter() - loaded}


if __name__ == "__main__":
    answer_request(answer)
