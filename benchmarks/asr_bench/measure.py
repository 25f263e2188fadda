"""What a measurement needs: the machine it was made on, and processes whose time and memory are counted."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from asr_runtime.engines import usable_cores
from asr_runtime.errors import AsrError

PACKAGES = ("asr-deploy", "numpy", "onnxruntime", "soundfile", "soxr", "jiwer")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, versions, commit and load: what another needs to compare figures."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": "not measured",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class Process:
    """What a finished process took: wall and processor seconds, and the most memory that it had resident."""

    output: str
    wall: float
    cpu: float
    peak_mb: float


def run_process(arguments: list[str]) -> Process:
    """Run Python with `arguments` in a fresh process and count; raises AsrError where it fails."""
    begin = perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read() if process.stdout else ""
        # wait4 knows this one process; resource.RUSAGE_CHILDREN would mix all that ran before.
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AsrError(f"a measured process ended with code {process.returncode}; run it alone to see why.")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return Process(output, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def run_child(module: str, request: dict[str, Any]) -> tuple[dict[str, Any], Process]:
    """Run `python -m module` on a request as JSON; what it answers, and what it took."""
    process = run_process(["-m", module, json.dumps(request)])
    return json.loads(process.output), process
