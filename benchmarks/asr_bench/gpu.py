"""An NVIDIA GPU's load, memory, clock and power by NVML while something is measured; "not measured" without one."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

NOT_MEASURED = "not measured"
EVERY = 0.1  # seconds between two samples


def describe() -> Any:
    """Name, driver, memory and power limit of the first GPU."""
    nvml = _nvml()
    if nvml is None:
        return NOT_MEASURED
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    return {
        "name": nvml.nvmlDeviceGetName(device),
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "memory_mb": round(nvml.nvmlDeviceGetMemoryInfo(device).total / 1e6),
        "power_limit_w": _or_none(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000),
    }


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Samples the first GPU while the block runs; its figures stand in the dictionary afterwards.

    It is empty where there is no GPU, or no `pynvml` (package nvidia-ml-py). Memory is what the whole GPU holds,
    other programs' too.
    """
    figures: dict[str, Any] = {}
    nvml = _nvml()
    if nvml is None:
        yield figures
        return
    samples: list[dict[str, Any]] = []
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(nvml, samples, done), daemon=True)
    sampler.start()
    try:
        yield figures
    finally:
        done.set()
        sampler.join()
        figures |= _summary(samples)


def _sample(nvml: Any, samples: list[dict[str, Any]], done: threading.Event) -> None:
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    while True:
        samples.append(
            {
                "utilisation": nvml.nvmlDeviceGetUtilizationRates(device).gpu,
                "memory_mb": nvml.nvmlDeviceGetMemoryInfo(device).used / 1e6,
                "clock_mhz": nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
                "power_w": _or_none(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000),
            }
        )
        if done.wait(EVERY):
            return


def _summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {key: [each[key] for each in samples if each[key] is not None] for key in samples[0]}
    means = {f"gpu_{key}": round(fmean(values), 1) for key, values in columns.items() if values}
    return means | {"gpu_memory_mb": round(max(columns["memory_mb"]), 1), "gpu_samples": len(samples)}


def _or_none(nvml: Any, ask: Any) -> Any:
    try:
        return ask()
    except nvml.NVMLError:  # boards without that sensor
        return None


def _nvml() -> Any:
    """NVML, ready; None where there is no driver, no GPU or no package for it."""
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None
    try:
        nvml.nvmlInit()
        return nvml if nvml.nvmlDeviceGetCount() else None
    except nvml.NVMLError:
        return None
