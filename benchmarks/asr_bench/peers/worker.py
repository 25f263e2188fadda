"""One decoder in a process: a JSON request a line on standard input, a JSON answer a line on standard output.

`python worker.py MODULE PACKAGE DISTRIBUTION`: MODULE of this folder says how to use PACKAGE. It runs by path in the
interpreter that has the decoder (Python 3.9 for ds_ctcdecoder), so it needs NumPy and nothing of asr_bench. The MODULE
has one function, `load(package, tokens, files, settings)`, which returns what makes a decode function for a beam size;
where DISTRIBUTION is none that is installed, also `version(DISTRIBUTION)`.
Requests:

- `load` (tokens, files, settings, beam): reads the language model; answers CPU and wall seconds and memory.
- `decode` (emissions, beam, pieces): each piece is a list of utterances that are joined; answers texts, CPU
  nanoseconds of each decode call and memory.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Decode = Callable[[Any], str]


class Server:
    """Answers requests; holds the decoder and the emissions."""

    def __init__(self, module: str, package: str, distribution: str) -> None:
        self.module, self.package, self.distribution = module, package, distribution
        self.beam, self.decode_piece = 0, None  # type: tuple[int, Decode | None]
        self.emissions: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the decoder; importing its package is not counted."""
        package, module = importlib.import_module(self.package), importlib.import_module(self.module)
        before, cpu, wall = memory(), time.process_time(), time.perf_counter()
        self.with_beam = module.load(package, request["tokens"], request["files"], request["settings"])
        self.beam, self.decode_piece = request["beam"], self.with_beam(request["beam"])
        seconds = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        version_of = getattr(module, "version", version)
        versions = {"python": sys.version.split()[0], "version": version_of(self.distribution)}
        return {**seconds, "before": before, "after": memory(), **versions}

    def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        """Decode pieces; timed is the call alone, with whatever the decoder needs done to float32 [frames, tokens]."""
        if request["beam"] != self.beam or self.decode_piece is None:
            self.beam, self.decode_piece = request["beam"], None
            self.decode_piece = self.with_beam(self.beam)
        arrays = [self.piece(request["emissions"], utterances) for utterances in request["pieces"]]
        texts, nanoseconds = [], []
        forget_peak()
        before = memory()
        for array in arrays:
            begin = time.process_time_ns()
            text = self.decode_piece(array)
            nanoseconds.append(time.process_time_ns() - begin)
            texts.append(text)
        return {"texts": texts, "nanoseconds": nanoseconds, "before": before, "after": memory()}

    def piece(self, path: str, utterances: list[int]) -> NDArray[np.float32]:
        """Utterances one after another, C-contiguous float32 [frames, tokens]."""
        if self.emissions is None:
            with np.load(path) as file:
                self.emissions = file["emis"], file["offs"]
        rows, offsets = self.emissions
        return np.concatenate([rows[offsets[index] : offsets[index + 1]] for index in utterances])


def memory() -> dict[str, float]:
    """Megabytes resident, their peak since `forget_peak`, and how much of it mirrors files; zeros where not Linux."""
    found = dict.fromkeys(("VmRSS", "VmHWM", "RssFile"), 0.0)
    with suppress(OSError), Path("/proc/self/status").open(encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024 / 1e6
    return {"resident": found["VmRSS"], "peak": found["VmHWM"], "files": found["RssFile"]}


def forget_peak() -> None:
    """Let VmHWM start again at the present size (proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    server = Server(*sys.argv[1:4])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request["op"])(request)
        except Exception as error:  # what a peer raises is a result like any other
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
