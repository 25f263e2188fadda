"""The machine that a measurement is made on, and what else it does meanwhile."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from asr_bench.gpu import describe as describe_gpu
from asr_runtime.engines import usable_cores

PACKAGES = ("asr-deploy", "numpy", "onnxruntime", "soundfile", "soxr", "rapidfuzz", "torch")
CPU = Path("/sys/devices/system/cpu")
NOT_TOLD = "not told by the system"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, power settings, system, versions, commit and load: what makes figures comparable."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "power": power(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed for name in PACKAGES if (installed := _version(name))},
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": describe_gpu(),
    }


def power() -> dict[str, str]:
    """What decides the clock: the governor, the firmware's profile, and on a Jetson its power mode."""
    found = {
        "governor": _line(CPU / "cpu0/cpufreq/scaling_governor"),
        "boost": _line(CPU / "cpufreq/boost"),
        "profile": _line(Path("/sys/firmware/acpi/platform_profile")),
        "nvpmodel": _nvpmodel(),
    }
    return {name: value for name, value in found.items() if value} or {"governor": NOT_TOLD}


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _nvpmodel() -> str:
    command = shutil.which("nvpmodel")
    if not command:
        return ""
    told = subprocess.run([command, "-q"], capture_output=True, text=True, timeout=10)
    return " ".join(told.stdout.split())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Meanwhile:
    """How many cores other programs kept busy since this was made; from Linux's /proc/stat."""

    def __init__(self) -> None:
        self._begin = perf_counter()
        self._others = _seconds_of_others()

    def cores(self) -> float | None:
        """Mean number of cores; None where the system does not tell."""
        now = _seconds_of_others()
        if now is None or self._others is None:
            return None
        return round(max(0.0, now - self._others) / (perf_counter() - self._begin), 2)


def _seconds_of_others() -> float | None:
    """Processor seconds that all programs but this one and its finished children have had since the start."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft = map(int, fields[1:8])
    busy = (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])
