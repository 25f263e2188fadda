"""Latency of one recording after another, by its length: the first time with this shape, and warm.

Run as a module it is one round, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

from asr_bench import systems
from asr_bench.measure import answer_request, run_child
from asr_bench.results import Point, point
from asr_bench.scenarios.accuracy import text_rates
from asr_bench.systems import Setting
from asr_bench.task import Task

EDGES = (0.0, 3.0, 6.0, 12.0, float("inf"))  # seconds, between the groups of lengths
PASSES = ("new shape", "warm")
PERCENTILES = (50, 90, 99)


def latency(task: Task) -> list[Point]:
    """Percentiles for each group of lengths that has recordings; every round loads anew."""
    answers: list[list[dict[str, Any]]] = [[] for _ in task.pairs]
    for number in range(task.rounds):
        for told, (entry, setting) in zip(answers, task.pairs, strict=True):
            found, _ = run_child(__name__, {**entry.request(setting), "files": task.files})
            told.append(found)
            middle = 1000 * float(np.median(found["passes"][-1]))
            task.told(number, setting, f"median of all lengths {middle:.0f} ms")
    return [
        each
        for told, (_, setting) in zip(answers, task.pairs, strict=True)
        for low, high in pairwise(EDGES)
        for each in _group(task, told, setting, low, high)
    ]


def _group(task: Task, told: Sequence[dict[str, Any]], setting: Setting, low: float, high: float) -> list[Point]:
    """The points of the recordings between two lengths, none if there are no such recordings."""
    chosen = [number for number, seconds in enumerate(task.seconds) if low <= seconds < high]
    if not chosen:
        return []
    name = f"{low:g}–{high:g} s" if high < float("inf") else f"from {low:g} s"
    rates = text_rates([task.utterances[i] for i in chosen], [told[-1]["texts"][i] for i in chosen])
    more = {
        "device_used": told[0]["device"],
        "recordings": len(chosen),
        "mean_seconds": round(sum(task.seconds[i] for i in chosen) / len(chosen), 2),
        "rates": rates,
    }
    key = {name: value for name, value in setting.items() if name != "batch_size"}
    points = []
    for number, each_pass in enumerate(PASSES):
        rounds = [_percentiles([each["passes"][number][i] for i in chosen]) for each in told]
        points.append(point({**key, "audio": name, "pass": each_pass}, rounds, **more))
    return points


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    found = 1000 * np.percentile(seconds, PERCENTILES)
    return {f"p{name}_ms": float(value) for name, value in zip(PERCENTILES, found, strict=True)}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load a recogniser; seconds of each file in each pass over all."""
    system = systems.load(request)
    passes, texts = [], list[str]()
    for _ in PASSES:
        seconds, texts = [], []
        for file in request["files"]:
            begun = perf_counter()
            texts += system.texts([file])
            seconds.append(perf_counter() - begun)
        passes.append(seconds)
    return {"device": system.device, "passes": passes, "texts": texts}


if __name__ == "__main__":
    answer_request(answer)
