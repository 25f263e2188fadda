"""Our beam search beside others on the same log-probabilities: error rates, processor time, memory, loading.

Each decoder has a process of its own on one thread. Blocks of utterances go through all of them in turn, and the order
rotates, so that other work on the machine falls on all alike; counted is processor time of the decode call alone,
conversions of its input included. An utterance's time is its median over the repeats.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from asr_bench.contestants import Contestant, DecoderFailed, Worker
from asr_bench.emissions import Emissions
from asr_bench.manifest import Utterance
from asr_bench.scenarios.accuracy import count_errors, rate
from asr_runtime.errors import DecoderError
from asr_runtime.transcript import Transcript

BLOCK = 5  # utterances that one decoder decodes before the next has its turn
WARM = 2  # times that a first utterance is decoded uncounted: the language model's pages come in


@dataclass
class Task:
    """What all decoders are given, and what became of them; `failures` says which ended early, and how."""

    emissions: Emissions
    files: Mapping[str, Path]
    path: Path  # of the emissions, where the workers read them
    loads: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def start(self, contestant: Contestant, beam: int) -> Worker:
        """A process for a contestant, warm."""
        worker = Worker(contestant, self.emissions.tokens, self.files, self.path, beam)
        self.loads.setdefault(contestant.name, []).append(worker.loaded)
        return worker


def measure(
    contestants: Sequence[Contestant],
    emissions: Emissions,
    files: Mapping[str, Path],
    *,
    beams: Sequence[int],
    lengths: Sequence[float],
    length_beam: int,
    repeats: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The whole comparison as a result for JSON; raises DecoderError where a decoder cannot be loaded."""
    others = dict.fromkeys(contestant.peer for contestant in contestants if contestant.peer != "ours")
    if others and not emissions.are_letters:
        raise DecoderError(f"{', '.join(others)}: wanted tokens of one character each; leave all out by --peer ours.")
    with TemporaryDirectory() as folder:
        path, alphabet = Path(folder) / "emissions.npz", Path(folder) / "alphabet.txt"
        np.savez(path, emis=emissions.log_probs, offs=emissions.offsets)
        alphabet.write_text("".join(f"{token}\n" for token in emissions.tokens if token), encoding="utf-8")
        task = Task(emissions, {**files, "alphabet": alphabet}, path)
        points = sweep(contestants, task, beams, repeats, progress)
        left = [contestant for contestant in contestants if contestant.name not in task.failures]
        by_length = length(left, task, lengths, length_beam, repeats, progress) if lengths else []
    return {
        "utterances": len(emissions.references),
        "audio_seconds": round(emissions.seconds(range(len(emissions.references))), 1),
        "words": sum(len(text.split()) for text in emissions.references),
        "repeats": repeats,
        "files": {role: _describe_file(path) for role, path in files.items()},
        "settings": {contestant.name: contestant.stated("lm" in files) for contestant in contestants},
        "decoders": {name: _load_medians(loads) for name, loads in task.loads.items()},
        "sweep": points,
        "length_beam": length_beam,
        "length": by_length,
        "failures": task.failures,
    }


def _describe_file(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _load_medians(loads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    growth = [load["after"]["resident"] - load["before"]["resident"] for load in loads]
    return {
        "python": loads[0]["python"],
        "version": loads[0]["version"],
        "loads": len(loads),
        "load_cpu_seconds": round(median(load["cpu_seconds"] for load in loads), 4),
        "load_wall_seconds": round(median(load["wall_seconds"] for load in loads), 4),
        "load_mb": round(median(growth), 1),
    }


@dataclass
class Run:
    """What one decoder gave at one beam: texts, nanoseconds of each utterance in each repeat, resident memory."""

    texts: dict[int, str] = field(default_factory=dict)
    nanoseconds: dict[int, list[int]] = field(default_factory=dict)
    resident_mb: float = 0.0

    def add(self, first: int, answer: dict[str, Any]) -> None:
        """Take in a block's answer, whose first utterance is number `first`."""
        for number, (text, time) in enumerate(zip(answer["texts"], answer["nanoseconds"], strict=True), first):
            self.texts[number] = text
            self.nanoseconds.setdefault(number, []).append(time)
        self.resident_mb = answer["after"]["resident"]


def sweep(
    contestants: Sequence[Contestant],
    task: Task,
    beams: Sequence[int],
    repeats: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Error rates and times of every decoder at every beam."""
    points = []
    with ExitStack() as stack:
        workers = {one.name: stack.enter_context(closing(task.start(one, beams[0]))) for one in contestants}
        for beam in beams:
            for name, run in interleaved(workers, task, beam, repeats).items():
                points.append({"decoder": name, "beam": beam, **_figures(run, task.emissions)})
                progress("{decoder}, beam {beam}: WER {wer:.2f} %, {ms:.2f} ms an utterance".format(**points[-1]))
    if not points:
        raise DecoderError(f"no decoder came through: {'; '.join(task.failures.values())}")
    return points


def interleaved(workers: Mapping[str, Worker], task: Task, beam: int, repeats: int) -> dict[str, Run]:
    """Each block of utterances through all decoders in turn, the order rotating; whoever fails is left out after."""
    count = len(task.emissions.references)
    runs = {name: Run() for name, worker in workers.items() if _attempt(task, worker, beam, [0] * WARM)}
    order = deque(runs)
    for _ in range(repeats):
        for first in range(0, count, BLOCK):
            for name in order:
                if answer := _attempt(task, workers[name], beam, range(first, min(first + BLOCK, count))):
                    runs[name].add(first, answer)
            order.rotate(-1)
    return {name: run for name, run in runs.items() if name not in task.failures}


def _attempt(task: Task, worker: Worker, beam: int, block: Iterable[int]) -> dict[str, Any] | None:
    if worker.name in task.failures:
        return None
    try:
        return worker.decode(beam, [[number] for number in block])
    except DecoderFailed as error:
        task.failures[worker.name] = f"at beam {beam}, {error}"
        return None


def _figures(run: Run, emissions: Emissions) -> dict[str, Any]:
    numbers = range(len(emissions.references))
    times = [median(run.nanoseconds[number]) / 1e6 for number in numbers]
    return {
        **error_rates([run.texts[number] for number in numbers], emissions.references),
        "ms": round(fmean(times), 4),
        "ms_p95": round(float(np.percentile(times, 95)), 4),
        "ms_per_audio_second": round(sum(times) / emissions.seconds(numbers), 5),
        "resident_mb": round(run.resident_mb, 1),
    }


def error_rates(texts: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Word and character error rates in percent with their 95 % intervals."""
    errors = [
        count_errors(Utterance(Path(), reference, ""), Transcript("", 0.0, text, 0.0, (), ()))
        for text, reference in zip(texts, references, strict=True)
    ]
    rates = rate(errors)
    return {key: rates[key] for key in ("wer", "wer_interval", "cer", "cer_interval")}


def pieces(emissions: Emissions, seconds: float, total: float) -> list[list[int]]:
    """The utterances that last `total` together, again from the first if need be, in pieces near `seconds`.

    Every length is measured on the same audio, of whole utterances: what differs is only where it is cut.
    """
    count, number, covered, found = len(emissions.references), 0, 0.0, list[list[int]]()
    while covered < total:
        next_seconds = emissions.seconds([number % count])
        if not found or emissions.seconds(found[-1]) + next_seconds / 2 > seconds:
            found.append([])
        found[-1].append(number % count)
        covered += next_seconds
        number += 1
    if len(found) > 1 and emissions.seconds(found[-1]) < seconds / 2:
        rest = found.pop()
        found[-1] += rest
    return found


def length(
    contestants: Sequence[Contestant],
    task: Task,
    lengths: Sequence[float],
    beam: int,
    repeats: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Processor time and memory by the length of what is decoded at once; each point in fresh processes."""
    answers: dict[tuple[float, str], list[dict[str, Any]]] = {}
    cuts = {seconds: pieces(task.emissions, seconds, max(lengths)) for seconds in lengths}
    order = deque(contestants)
    for _ in range(repeats):
        for seconds, cut in cuts.items():
            for contestant in tuple(order):
                answer = _long(contestant, task, beam, cut)
                if answer:
                    answers.setdefault((seconds, contestant.name), []).append(answer)
            order.rotate(-1)
            progress(f"pieces of about {seconds:g} s: done")
    names = [contestant.name for contestant in contestants]
    points = [(name, seconds) for name in names for seconds in lengths if (seconds, name) in answers]
    return [
        {"decoder": name, "seconds": seconds, **_length_figures(answers[seconds, name], cuts[seconds], task.emissions)}
        for name, seconds in points
    ]


def _long(contestant: Contestant, task: Task, beam: int, cut: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    key = f"{contestant.name} in pieces of {len(cut[0])} utterances"
    if key in task.failures:
        return None
    try:
        with closing(task.start(contestant, beam)) as worker:
            worker.decode(beam, [[0]] * WARM)
            return worker.decode(beam, cut)
    except DecoderFailed as error:
        task.failures[key] = str(error)
        return None


def _length_figures(
    answers: Sequence[dict[str, Any]], cut: Sequence[Sequence[int]], emissions: Emissions
) -> dict[str, Any]:
    audio = [emissions.seconds(piece) for piece in cut]
    references = [" ".join(emissions.references[number] for number in piece) for piece in cut]
    # Pages of a mapped file belong to the page cache and are given back under pressure: they are told apart.
    files = [answer["after"]["files"] - answer["before"]["files"] for answer in answers]
    growth = [answer["after"]["peak"] - answer["before"]["resident"] for answer in answers]
    return {
        "pieces": len(cut),
        "mean_seconds": round(fmean(audio), 1),
        "ms_per_audio_second": round(median(sum(answer["nanoseconds"]) for answer in answers) / 1e6 / sum(audio), 5),
        "extra_mb": round(median(max(0.0, more - mapped) for more, mapped in zip(growth, files, strict=True)), 2),
        "mapped_mb": round(median(files), 2),
        "wer": error_rates(answers[0]["texts"], references)["wer"],
    }
