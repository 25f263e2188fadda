"""Processes that share work end with the one that began them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = """
import os, sys, time
from asr_training.workers import in_processes

def wait(folder, name):
    with open(f"{folder}/{name}", "w") as file:
        print(os.getpid(), file=file)
    time.sleep(60)

if __name__ == "__main__":
    in_processes(wait, [(sys.argv[1], "a"), (sys.argv[1], "b")])
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_signal_to_end_ends_all_of_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    names = [tmp_path / "a", tmp_path / "b"]
    run = subprocess.Popen([sys.executable, str(program), str(tmp_path)])
    assert wait_for(lambda: all(name.is_file() and name.read_text().endswith("\n") for name in names))
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=20) == 143
    assert wait_for(lambda: not any(is_alive(int(name.read_text())) for name in names))
