"""A server under load: requests come at random times, and the highest rate is sought with 99 % inside a bound.

MLPerf's server scenario (Reddi et al. 2020): Poisson arrivals, latency counted from the arrival, so that waiting in
the queue counts. Run as a module it is one round, in a process of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_bench import systems
from asr_bench.measure import answer_request, run_child
from asr_bench.results import Point, point
from asr_bench.scenarios.accuracy import text_rates
from asr_bench.task import Task

INSIDE = 0.99  # of the requests
LOWEST = 0.1  # of what the workers could do without ever waiting: where the search begins
STEPS = 6  # of the search; each halves the range on a logarithmic scale, so that 4 % are left

Try = dict[str, float]  # rate, inside, p50_ms, p90_ms, p99_ms


def server(task: Task, bound: float, requests: int) -> list[Point]:
    """For each setting the highest rate, in requests a second, that keeps `bound` (seconds)."""
    answers: list[list[dict[str, Any]]] = [[] for _ in task.pairs]
    for number in range(task.rounds):
        for told, (entry, setting) in zip(answers, task.pairs, strict=True):
            one = {**setting, "threads": 1}
            asked = {"workers": setting["threads"], "bound": bound, "requests": requests, "seed": number}
            found, process = run_child(__name__, {**entry.request(one), "files": task.files, **asked})
            told.append({**found, "peak_mb": process.peak_mb})
            task.told(number, setting, f"{found['rate']:.2f} requests a second within {bound:g} s")
    return [
        point(
            {**{name: value for name, value in setting.items() if name != "batch_size"}, "bound_s": bound},
            told,
            device_used=told[0]["device"],
            tries=sorted((each for found in told for each in found["tries"]), key=lambda each: float(each["rate"])),
            rates=text_rates(task.utterances, told[-1]["texts"]),
        )
        for told, (_, setting) in zip(answers, task.pairs, strict=True)
    ]


def serve(
    transcribe: Callable[[str], object], files: Sequence[str], arrivals: NDArray[np.float64], workers: int
) -> NDArray[np.float64]:
    """Serve files in the order of their arrivals (seconds from now); the latency of each in seconds, [files]."""
    latencies, numbers, lock = np.zeros(len(files)), iter(range(len(files))), threading.Lock()
    begin = perf_counter()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            sleep(max(0.0, arrivals[number] - (perf_counter() - begin)))
            transcribe(files[number])
            latencies[number] = perf_counter() - begin - arrivals[number]

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def search(attempt: Callable[[float], Try], most: float) -> tuple[float, list[Try]]:
    """The highest rate below `most` that keeps the bound, 0 if none of the tries does, and all tries."""
    low, high, tries = LOWEST * most, most, list[Try]()
    for _ in range(STEPS):
        rate = float(np.sqrt(low * high))
        tries.append(attempt(rate))
        low, high = (rate, high) if tries[-1]["inside"] >= INSIDE else (low, rate)
    return max((each["rate"] for each in tries if each["inside"] >= INSIDE), default=0.0), tries


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load a recogniser, measure it alone, and search."""
    begin = perf_counter()
    system = systems.load(request)
    loaded = perf_counter()
    files, random = request["files"], np.random.default_rng(request["seed"])
    texts = [text for file in files for text in system.texts([file])]
    alone = (perf_counter() - loaded) / len(files)

    def attempt(rate: float) -> Try:
        chosen = [files[number] for number in random.integers(len(files), size=request["requests"])]
        arrivals = np.cumsum(random.exponential(1 / rate, len(chosen)))
        latencies = serve(lambda file: list(system.texts([file])), chosen, arrivals, request["workers"])
        p50, p90, p99 = (round(float(value), 2) for value in 1000 * np.percentile(latencies, [50, 90, 99]))
        inside = float(np.mean(latencies <= request["bound"]))
        return {"rate": round(rate, 4), "inside": round(inside, 4), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}

    rate, tries = search(attempt, request["workers"] / alone)
    return {"device": system.device, "load_seconds": loaded - begin, "rate": rate, "tries": tries, "texts": texts}


if __name__ == "__main__":
    answer_request(answer)
