"""The comparison of decoders for people: Markdown and three charts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from asr_bench.plots import Line, chart
from asr_bench.report import footer, table

Point = dict[str, Any]


def charts(result: dict[str, Any]) -> dict[str, str]:
    """SVG pictures by name: `accuracy`, and with lengths measured `length` and `memory`."""
    beams = ", ".join(map(str, dict.fromkeys(point["beam"] for point in result["sweep"])))
    pictures = {
        "accuracy": chart(
            f"Word error rate against time, beams {beams}",
            "CPU milliseconds per second of audio",
            "word error rate, %",
            [
                Line(
                    name,
                    [(p["ms_per_audio_second"], p["wer"]) for p in points],
                    [str(p["beam"]) for p in points] if name == "ours" else (),
                )
                for name, points in _by_decoder(result["sweep"])
            ],
            log_up=False,
        )
    }
    for key, of, unit in (
        ("length", "ms_per_audio_second", "CPU milliseconds per second of audio"),
        ("memory", "extra_mb", "extra memory, MB (0.1: that or less)"),
    ):
        if result["length"]:
            pictures[key] = chart(
                f"{'Time' if key == 'length' else 'Memory'} against length, beam {result['length_beam']}",
                "seconds of audio decoded at once",
                unit,
                # Less than a tenth of a megabyte cannot be told from none.
                [
                    Line(name, [(p["mean_seconds"], max(p[of], 0.1 if of == "extra_mb" else 0)) for p in points])
                    for name, points in _by_decoder(result["length"])
                ],
            )
    return pictures


def _by_decoder(points: list[Point]) -> Iterator[tuple[str, list[Point]]]:
    for name in dict.fromkeys(point["decoder"] for point in points):
        yield name, [point for point in points if point["decoder"] == name]


def markdown(result: dict[str, Any], name: str) -> str:
    """The tables; the charts are beside, as NAME-accuracy.svg and so on."""
    parts = [
        f"# Beam search decoders on {result['emissions']['name']}\n\n{_introduction(result)}\n",
        f"## Error rates and time\n\n![word error rate against time]({name}-accuracy.svg)\n\n{_sweep(result)}",
    ]
    if compared := at_equal_accuracy(result["sweep"]):
        parts.append(f"## Ours at a word error rate that is not higher\n\n{compared}")
    if result["length"]:
        pictures = f"![time against length]({name}-length.svg)\n\n![memory against length]({name}-memory.svg)"
        parts.append(f"## Length\n\n{pictures}\n\n{_length(result)}")
    parts.append(f"## Loading\n\n{_loading(result)}")
    parts.append(f"## Settings\n\n{_settings(result)}{footer(result)}")
    if result["failures"]:
        rows = [(name, told.replace("|", "\\|")) for name, told in result["failures"].items()]
        parts.insert(2, "## Ended early\n\n" + table(["decoder", "how"], rows))
    return "\n".join(parts)


def _introduction(result: dict[str, Any]) -> str:
    emissions, files = result["emissions"], result["files"]
    model = "without a language model"
    if "lm" in files:
        model = f"with the language model {files['lm']['name']} ({files['lm']['bytes'] / 1e6:.1f} MB)"
    skipped = f"after the first {emissions['skipped']}, " if emissions["skipped"] else ""
    source = f"made by {emissions['bundle']} from " if "bundle" in emissions else "from "
    return (
        f"Log-probabilities {source}{emissions['name']}: {skipped}{result['utterances']} utterances, "
        f"{result['audio_seconds']:.0f} s of audio, {result['words']} words, "
        f"{1000 * emissions['frame_seconds']:g} ms a frame, {model}. Processor time of the decode call on one thread, "
        f"conversions of the input included; a process for each decoder, utterances in interleaved blocks of rotating "
        f"order, for each utterance the median of its repeats, {result['repeats']}. Intervals are 95 % over resampled "
        f"utterances; two decoders on the same utterances differ less by chance than their intervals say."
    )


def _interval(point: Point, key: str) -> str:
    low, high = point[f"{key}_interval"]
    return f"{point[key]:.2f} ({low:.1f}–{high:.1f})"


def _sweep(result: dict[str, Any]) -> str:
    head = ["decoder", "beam", "WER %", "CER %", "ms per utterance", "95th percentile", "ms per audio s", "resident MB"]
    rows = [
        (
            p["decoder"],
            p["beam"],
            _interval(p, "wer"),
            _interval(p, "cer"),
            f"{p['ms']:.2f}",
            f"{p['ms_p95']:.2f}",
            f"{p['ms_per_audio_second']:.3f}",
            f"{p['resident_mb']:.0f}",
        )
        for _, points in _by_decoder(result["sweep"])
        for p in points
    ]
    return table(head, rows)


def at_equal_accuracy(points: list[Point]) -> str:
    """For each point of another decoder, our cheapest that makes no more errors."""
    ours = [point for point in points if point["decoder"].startswith("ours")]
    rows = []
    for p in (point for _, group in _by_decoder(points) for point in group if point not in ours):
        best = min((q for q in ours if q["wer"] <= p["wer"]), key=lambda q: float(q["ms"]), default=None)
        left = (p["decoder"], p["beam"], f"{p['wer']:.2f}", f"{p['ms']:.2f}")
        if best is None:
            rows.append((*left, "—", "—", "—", "not reached"))
        else:
            times = f"{p['ms'] / best['ms']:.1f}"
            setting = f"{best['beam']}{best['decoder'].removeprefix('ours')}"
            rows.append((*left, setting, f"{best['wer']:.2f}", f"{best['ms']:.2f}", times))
    head = ["decoder", "beam", "WER %", "ms", "our beam", "our WER %", "our ms", "times faster"]
    return table(head, rows) if rows else ""


def _length(result: dict[str, Any]) -> str:
    head = ["decoder", "mean length s", "pieces", "ms per audio s", "extra MB", "mapped file MB", "WER %"]
    rows = [
        (
            p["decoder"],
            p["mean_seconds"],
            p["pieces"],
            f"{p['ms_per_audio_second']:.3f}",
            f"{p['extra_mb']:.1f}",
            f"{p['mapped_mb']:.1f}",
            f"{p['wer']:.2f}",
        )
        for p in result["length"]
    ]
    return (
        f"Beam {result['length_beam']}. The same audio at each length, cut between utterances. Extra memory is the "
        "peak above what was resident after one utterance, without pages of mapped files, which stand apart.\n\n"
        + table(head, rows)
    )


def _loading(result: dict[str, Any]) -> str:
    head = ["decoder", "version", "Python", "CPU s", "wall s", "resident MB more"]
    rows = [
        (name, d["version"], d["python"], d["load_cpu_seconds"], d["load_wall_seconds"], d["load_mb"])
        for name, d in result["decoders"].items()
    ]
    return "Medians over fresh processes, files in the page cache; importing the package is not counted.\n\n" + table(
        head, rows
    )


def _settings(result: dict[str, Any]) -> str:
    rows = [
        (name, ", ".join(f"{key} {json.dumps(value)}" for key, value in settings.items()).replace('"', ""))
        for name, settings in result["settings"].items()
    ]
    return table(["decoder", "settings beside the beam"], rows)
