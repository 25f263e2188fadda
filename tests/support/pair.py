"""Two processes that share each step of a run, as torchrun starts them, without torchrun's own start beside them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_pair(*arguments: str, seconds: float = 300) -> tuple[str, str]:
    """Run Python with these arguments twice, as the processes 0 and 1 of a run; what each wrote on standard error."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": number, "LOCAL_RANK": number},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    try:
        first, second = (process.communicate(timeout=seconds)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], first + second
    return first, second
