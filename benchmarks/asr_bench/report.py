"""Results as JSON, for programs, and Markdown, for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
        + table(["decoder", "source", "utterances", "WER % (95 % interval)", "CER % (95 % interval)"], rows)
        + "\nConfidences of words:\n\n"
        + table(["decoder", "words", "expected calibration error"], confidences)
        + footer(result)
    )


def _with_interval(rate: dict[str, Any], key: str) -> str:
    low, high = rate[f"{key}_interval"]
    return f"{rate[key]:.1f} ({low:.1f}–{high:.1f})"


def throughput_markdown(result: dict[str, Any]) -> str:
    """Real-time factors by threads and batch, and the cold start."""
    rows = [
        (
            run["threads"],
            run["batch_size"],
            "{:.4f} ({:.4f}–{:.4f})".format(run["real_time_factor"], *run["real_time_factor_range"]),
            f"{1 / run['real_time_factor']:.0f}",
            f"{run['cpu_per_audio_second']:.4f}",
            f"{run['load_seconds']:.2f}",
            f"{run['first_file_seconds']:.2f}",
            f"{run['peak_mb']:.0f}",
        )
        for run in result["throughput"]
    ]
    head = [
        "threads",
        "batch",
        "real-time factor (range)",
        "× real time",
        "CPU s per audio s",
        "load s",
        "first file s",
        "peak MB",
    ]
    cold = result["cold_start"]
    return (
        f"# Throughput of {result['bundle']['name']}\n\n"
        f"{result['files']} files, {result['throughput'][0]['audio_seconds']:.0f} s of audio, reading and decoding "
        f"included; {result['throughput'][0]['device']}; medians of {result['rounds']} interleaved rounds, each in a "
        f"process of its own.\n\n"
        + table(head, rows)
        + f"\nCold start: {cold['wall_seconds']:.2f} s (least {cold['wall_seconds_least']:.2f} s, CPU "
        f"{cold['cpu_seconds']:.2f} s) from process start to the text of one file, {cold['peak_mb']:.0f} MB.\n"
        + footer(result)
    )


def footer(result: dict[str, Any]) -> str:
    """The machine, its versions and its load."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"\n{machine['date']}, commit {machine['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, {versions}; "
        f"load {machine['load_average']} at the start; GPU: {machine['gpu']}.\n"
    )
