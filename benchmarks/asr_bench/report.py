"""Results as JSON, for programs, and Markdown, for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asr_bench.results import METRICS, Point, metrics, written
from asr_runtime.bundle import Bundle


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """What of a bundle decides its results."""
    files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in bundle.files]
    return {"name": bundle.name, "decoder": dict(bundle.decoder), "files": files}


def write(folder: Path, name: str, result: dict[str, Any], markdown: str) -> None:
    """Write NAME.json and NAME.md into `folder`, each beside and renamed, and say on standard error where."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / f"{name}.md", markdown)
    print(f"asr-bench: wrote {folder / name}.json and .md", file=sys.stderr)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def accuracy_markdown(result: dict[str, Any]) -> str:
    """Error rates of each decoder, in all and by source."""
    rows = [
        (decoder, source, rate["utterances"], _with_interval(rate, "wer"), _with_interval(rate, "cer"))
        for decoder, found in result["decoders"].items()
        for source, rate in found["rates"].items()
    ]
    confidences = [
        (decoder, found["confidence"]["words"], found["confidence"]["expected_calibration_error"])
        for decoder, found in result["decoders"].items()
    ]
    return (
        f"# Accuracy of {result['bundle']['name']} on {result['manifest']}\n\n"
        f"Of all words and characters together; intervals by drawing utterances again; texts compared in "
        f"{result.get('normaliser', 'plain')} spelling.\n\n"
        + table(["decoder", "source", "utterances", "WER % (95 % interval)", "CER % (95 % interval)"], rows)
        + "\nConfidences of words:\n\n"
        + table(["decoder", "words", "expected calibration error"], confidences)
        + footer(result)
    )


def _with_interval(rate: dict[str, Any], key: str) -> str:
    low, high = rate[f"{key}_interval"]
    return f"{rate[key]:.1f} ({low:.1f}–{high:.1f})"


TITLES = {
    "throughput": "Throughput",
    "latency": "Latency",
    "cold-start": "Cold start",
    "memory": "Memory",
    "roofline": "Roofline",
}
ABOUT = {
    "throughput": "All recordings as fast as they go, reading and decoding inside; real seconds, without padding. "
    "The limit is what the model's counted operations and weights must take at this core's speed, the share what "
    "that is of the processor time of the whole.",
    "latency": (
        "One recording after another, reading and decoding inside. New shape: a length's first time; warm: its "
        "second. Server: Poisson arrivals, latency from the arrival, the highest rate with 99 % inside the bound."
    ),
    "cold-start": "From the start of an `asr-run` process to its end with the text of one recording.",
    "roofline": (
        "The engine alone, on one core, beside the least that the counted operations and weights must take at the "
        "matrix and memory speed of that core; all in processor seconds."
    ),
    "memory": "Peak of the process on one recording of so many seconds.",
}


def speed_markdown(result: dict[str, Any]) -> str:
    """The points of a speed scenario; points of different kinds in tables of their own."""
    kinds: dict[tuple[str, ...], list[Point]] = {}
    for each in result["points"]:
        kinds.setdefault(tuple(each["key"]), []).append(each)
    return (
        f"# {TITLES[result['scenario']]} of {result['bundle']['name']}{_recordings(result)}\n\n"
        f"{ABOUT[result['scenario']]} Medians (and range) of {result['rounds']} rounds, each in processes of its own"
        f"{_said(result['options'])}.\n\n"
        + "\n".join(points_table(points) for points in kinds.values())
        + footer(result)
    )


def _recordings(result: dict[str, Any]) -> str:
    if not result["manifest"]:
        return ""
    return f" on {result['files']} recordings ({result['audio_seconds']:.0f} s) of {result['manifest']}"


def _said(options: dict[str, Any]) -> str:
    return "".join(f"; {name} {value}" for name, value in options.items())


def points_table(points: Sequence[Point]) -> str:
    """Points of one kind: what differs between them, their figures, error rates, and the device that was used."""
    keys = [key for key in points[0]["key"] if key == "system" or len({str(each["key"][key]) for each in points}) > 1]
    # Seconds for all recordings together are in the JSON; the real-time factor says the same for any number of them.
    whole = {"wall_seconds", "cpu_seconds"} if any("real_time_factor" in each["rounds"] for each in points) else set()
    shown = [metric for metric in metrics(points) if metric not in whole]
    rated, used, limited = (any(name in each for each in points) for name in ("rates", "device_used", "limit"))
    head = [*(key.replace("_", " ") for key in keys), *(METRICS[metric].label for metric in shown)]
    rows = []
    for each in points:
        row = [each["key"][key] for key in keys]
        row += [written(each, metric) if metric in each["rounds"] else "" for metric in shown]
        row += _limit(each) if limited else []
        row += [_with_interval(each["rates"], "wer")] if rated else []
        rows.append([*row, *([each["device_used"]] if used else [])])
    head += [METRICS["limit_seconds"].label, METRICS["share"].label] if limited else []
    return table([*head, *(["WER % (95 % interval)"] if rated else []), *(["really on"] if used else [])], rows)


def _limit(each: Point) -> list[str]:
    """The processor time that the model alone must take on this core, and the share of it in the time of the whole."""
    if "limit" not in each:
        return ["", ""]
    least, share = each["limit"]["cpu_per_audio_second"], each["limit"]["share"]
    return [format(least, METRICS["limit_seconds"].form), format(share, METRICS["share"].form)]


def footer(result: dict[str, Any]) -> str:
    """The machine, its versions, its power settings and its load."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    power = ", ".join(f"{name} {value}" for name, value in machine.get("power", {}).items())
    others = machine.get("cores_of_others")
    beside = "" if others is None else f", other programs on {others} cores meanwhile"
    return (
        f"\n{machine['date']}, commit {machine['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, {versions}; "
        f"{power + '; ' if power else ''}load {machine['load_average']} at the start"
        f"{beside}; GPU: {_gpu(machine['gpu'])}.\n"
    )


def _gpu(gpu: Any) -> str:
    return gpu if isinstance(gpu, str) else ", ".join(f"{key} {value}" for key, value in gpu.items())
