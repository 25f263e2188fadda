"""Processes whose time and memory are counted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asr_runtime.errors import AsrError

LIMIT = 3600  # seconds after which a process counts as hanging

# Linux counts a program's peak memory from what started it, so that a large benchmark would hide a small program:
# this one starts it in between, and is itself about 10 MB. Its last line of output is what it counted. It ends itself
# and what it started when the benchmark is no longer there, however that ended.
STARTER = """
import json, os, subprocess, sys, threading, time
def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, 9)
threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - begin
process.returncode = 0
unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
cpu = usage.ru_utime + usage.ru_stime
counted = [os.waitstatus_to_exitcode(status), wall, cpu, usage.ru_maxrss * unit / 1e6]
try:
    os.write(1, ("\\n" + json.dumps(counted) + "\\n").encode())
except BrokenPipeError:  # nobody waits for it any more
    sys.exit(1)
"""


@dataclass(frozen=True)
class Process:
    """What a finished process took: wall and processor seconds, and the most memory that it had resident."""

    output: str
    wall: float
    cpu: float
    peak_mb: float


def run_process(arguments: Sequence[str], given: str = "") -> Process:
    """Run Python with `arguments` and `given` as standard input in a fresh process, and count.

    Raises AsrError where it fails or hangs.
    """
    command = [sys.executable, "-S", "-c", STARTER, str(os.getpid()), sys.executable, *arguments]
    try:
        # In a session of its own, so that all of it can be ended together.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
        ) as starter:
            try:
                told, _ = starter.communicate(given, timeout=LIMIT)
            except BaseException:
                os.killpg(starter.pid, 9)
                raise
    except subprocess.TimeoutExpired:
        raise AsrError(f"a measured process did not end within {LIMIT} s; run it alone to see why.") from None
    output, _, counted = told.rstrip("\n").rpartition("\n")
    code, wall, cpu, peak_mb = json.loads(counted)
    if code:
        raise AsrError(f"a measured process ended with code {code}; run it alone to see why.")
    return Process(output, wall, cpu, peak_mb)


def run_child(module: str, request: dict[str, Any]) -> tuple[dict[str, Any], Process]:
    """Run `python -m module`, which calls `answer_request`; what it answers, and what it took.

    Raises AsrError where it answers with one.
    """
    process = run_process(["-m", module], json.dumps(request))
    answer = json.loads(process.output.rstrip("\n").rpartition("\n")[2])
    if "error" in answer:
        raise AsrError(answer["error"])
    return answer, process


def answer_request(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the request on standard input; what libraries print meanwhile goes to standard error."""
    given = sys.stdin.read()
    if not given:  # the benchmark ended before it asked
        sys.exit(1)
    request = json.loads(given)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        result = answer(request)
    except AsrError as error:
        result = {"error": str(error)}
    with contextlib.suppress(BrokenPipeError), out:  # nobody may wait for it any more
        print(json.dumps(result), file=out)
