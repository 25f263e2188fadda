"""Pictures of results, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asr_bench import decoder_report
from asr_bench.plots import Line, chart
from asr_bench.results import Point, middle

Result = dict[str, Any]


def charts(result: Result) -> list[str]:
    """All that there are of a result."""
    return DRAWN[result["scenario"]](result) if result["scenario"] in DRAWN else []


def _grouped(points: Iterable[Point], *leave_out: str) -> dict[str, list[Point]]:
    """Points by what of their keys differs between any of them, without the keys `leave_out`."""
    points = list(points)
    names = [name for name in points[0]["key"] if name not in leave_out] if points else []
    shown = [name for name in names if name == "system" or len({str(each["key"][name]) for each in points}) > 1]
    groups: dict[str, list[Point]] = {}
    for each in points:
        label = [
            each["key"][name] if isinstance(each["key"][name], str) else f"{name} {each['key'][name]}" for name in shown
        ]
        groups.setdefault(", ".join(filter(None, label)), []).append(each)
    return groups


def _throughput(result: Result) -> list[str]:
    speed = [
        Line(name, [(each["key"]["batch_size"], 1 / middle(each, "real_time_factor")) for each in points])
        for name, points in _grouped(result["points"], "batch_size").items()
    ]
    cost = [
        Line(name, [(1000 * middle(each, "cpu_per_audio_second"), each["rates"]["wer"]) for each in points])
        for name, points in _grouped(result["points"], "batch_size", "threads").items()
    ]
    return [
        chart("Throughput against batch", "batch size", "seconds of audio in a second", speed),
        chart("Errors against cost", "CPU milliseconds per second of audio", "word error rate, %", cost, log_up=False),
    ]


def _latency(result: Result) -> list[str]:
    warm = [each for each in result["points"] if each["key"].get("pass") == "warm"]
    ours = [each for each in warm if each["key"]["system"] == "asr_runtime"]
    others = [each for each in warm if each["key"]["system"] != "asr_runtime"]
    lines = [
        Line(f"{name} {percentile}", [(each["mean_seconds"], middle(each, f"{percentile}_ms")) for each in points])
        for group, percentiles in ((ours, ("p50", "p90", "p99")), (others, ("p50",)))
        for name, points in _grouped(group, "audio", "pass").items()
        for percentile in percentiles
    ]
    served = [each for each in result["points"] if "tries" in each]
    queues = [
        Line(name, [(each["rate"], each["p99_ms"]) for point in points for each in point["tries"]], connected=False)
        for name, points in _grouped(served, "bound_s").items()
    ]
    drawn = [chart("Latency by length, warm", "seconds of audio", "milliseconds", lines)] if lines else []
    if queues:
        rates = [each["rate"] for point in served for each in point["tries"]]
        for bound in sorted({each["key"]["bound_s"] for each in served}):
            queues.append(Line(f"bound {bound:g} s", [(min(rates), 1000 * bound), (max(rates), 1000 * bound)]))
        drawn.append(chart("A server's latency", "requests a second", "p99, milliseconds from the arrival", queues))
    return drawn


def _memory(result: Result) -> list[str]:
    lines = [
        Line(name, [(each["key"]["audio_seconds"], middle(each, "peak_mb")) for each in points])
        for name, points in _grouped(result["points"], "audio_seconds").items()
    ]
    return [chart("Memory against length", "seconds of audio in one recording", "peak MB", lines, log_up=False)]


def _roofline(result: Result) -> list[str]:
    first = result["points"][0]
    most, bandwidth = middle(first, "matrix_gflops"), middle(first, "memory_gbytes")
    found = [(middle(each, "intensity"), middle(each, "gflops")) for each in result["points"]]
    edge = most / bandwidth
    left, right = min(edge, *(x for x, _ in found)) / 4, max(edge, *(x for x, _ in found)) * 4
    labels = [f"batch {each['key']['batch_size']}" for each in result["points"]]
    lines = [
        Line("asr_runtime", found, labels),
        Line("the core's limit", [(left, left * bandwidth), (edge, most), (right, most)]),
    ]
    return [chart("Roofline of one core", "operations per byte that nodes read and write", "GFLOP/s", lines)]


def _accuracy(result: Result) -> list[str]:
    lines = [
        Line(name, [(each["confidence"], each["right"]) for each in found["confidence"]["bins"]])
        for name, found in result["decoders"].items()
        if found["confidence"]["bins"]
    ]
    if not lines:
        return []
    lines.append(Line("as promised", [(0.0, 0.0), (1.0, 1.0)]))
    title = "Are words as often right as their confidence says?"
    return [chart(title, "confidence", "share of right words", lines, log_across=False, log_up=False)]


def _decoder(result: Result) -> list[str]:
    return list(decoder_report.charts(result).values())


DRAWN: dict[str, Callable[[Result], list[str]]] = {
    "throughput": _throughput,
    "latency": _latency,
    "memory": _memory,
    "roofline": _roofline,
    "accuracy": _accuracy,
    "decoder": _decoder,
}
