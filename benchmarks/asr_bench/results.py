"""What results are made of: points, each a setting with figures of several rounds, and what the figures mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Point = dict[str, Any]  # key: the setting; rounds: for each metric a figure of each round; and what is told beside


@dataclass(frozen=True)
class Metric:
    """A figure's name for people, how it is written, and whether more of it is better."""

    label: str
    form: str = ".3g"
    more_is_better: bool = False


METRICS = {
    "real_time_factor": Metric("real-time factor", ".4f"),
    "cpu_per_audio_second": Metric("CPU s per audio s", ".4f"),
    "load_seconds": Metric("load s", ".3f"),
    "first_file_seconds": Metric("first file s", ".3f"),
    "peak_mb": Metric("peak MB", ".0f"),
    "loaded_mb": Metric("MB once loaded", ".0f"),
    "p50_ms": Metric("p50 ms", ".0f"),
    "p90_ms": Metric("p90 ms", ".0f"),
    "p99_ms": Metric("p99 ms", ".0f"),
    "rate": Metric("requests a second", ".2f", more_is_better=True),
    "wall_seconds": Metric("wall s", ".3f"),
    "cpu_seconds": Metric("CPU s", ".3f"),
    "interpreter_seconds": Metric("Python itself s", ".3f"),
    "import_seconds": Metric("imports s", ".3f"),
    "operations": Metric("GFLOP per audio s", ".3g"),
    "weights_mb": Metric("MB of weights per audio s", ".3g"),
    "activations_mb": Metric("MB of activations per audio s", ".3g"),
    "intensity": Metric("FLOP per byte", ".3g", more_is_better=True),
    "gflops": Metric("GFLOP/s reached", ".1f", more_is_better=True),
    "matrix_gflops": Metric("GFLOP/s of the core", ".1f", more_is_better=True),
    "memory_gbytes": Metric("GB/s of the core", ".1f", more_is_better=True),
    "limit_seconds": Metric("limit, CPU s per audio s", ".5f"),
    "share": Metric("share of the limit", ".2f", more_is_better=True),
    "gpu_utilisation": Metric("GPU %", ".0f", more_is_better=True),
    "gpu_memory_mb": Metric("GPU MB", ".0f"),
    "gpu_clock_mhz": Metric("GPU MHz", ".0f", more_is_better=True),
    "gpu_power_w": Metric("GPU W", ".0f"),
}


def point(key: Mapping[str, Any], rounds: Sequence[Mapping[str, float]], **more: Any) -> Point:
    """A point from its rounds; figures that METRICS does not know are left out."""
    known = [metric for metric in METRICS if metric in rounds[0]]
    columns = {metric: [round(float(each[metric]), 6) for each in rounds] for metric in known}
    return {"key": dict(key), "rounds": columns, **more}


def middle(each: Point, metric: str) -> float:
    """The median of a point's rounds."""
    return float(median(each["rounds"][metric]))


def written(each: Point, metric: str, times: float = 1.0) -> str:
    """The median, and the range of the rounds where there are several."""
    values, form = [times * value for value in each["rounds"][metric]], METRICS[metric].form
    said, least, most = (format(value, form) for value in (median(values), min(values), max(values)))
    return said if least == most else f"{said} ({least}–{most})"


def metrics(points: Iterable[Point]) -> list[str]:
    """The metrics that any of the points has, in METRICS' order."""
    found = {metric for each in points for metric in each["rounds"]}
    return [metric for metric in METRICS if metric in found]
