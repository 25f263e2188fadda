"""The processes of a run: one, or several that torchrun started and that share the batch of each step."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from asr_runtime.errors import RecipeError

LONGEST_WAIT = datetime.timedelta(hours=6)  # of the others, while one computes features


@contextlib.contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the other processes if torchrun started some; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield torch.device(device)
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield own_gpu() if device == "cuda" else torch.device(device)
    finally:
        dist.destroy_process_group()


def own_gpu() -> torch.device:
    """The GPU of this process: its number among the machine's processes."""
    number = local_number()
    if number >= torch.cuda.device_count():
        raise RecipeError(
            f"this machine has {torch.cuda.device_count()} GPUs, but torchrun started process {number + 1} on it;"
            " take --nproc-per-node gpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Which of the processes this one is; 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_number() -> int:
    """Which of its machine's processes this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def one_after_the_first() -> Iterator[None]:
    """Let the first process of each machine do something alone, such as computing features, and the others then."""
    if count() > 1 and local_number() > 0:
        dist.barrier()
    yield
    if count() > 1 and local_number() == 0:
        dist.barrier()


def total(values: list[float], device: torch.device) -> list[float]:
    """Each number summed over the processes."""
    if count() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor]


def gathered(items: dict[int, Any]) -> dict[int, Any]:
    """The items of all processes."""
    if count() == 1:
        return items
    parts: list[dict[int, Any]] = [{} for _ in range(count())]
    dist.all_gather_object(parts, items)
    return {key: value for part in parts for key, value in part.items()}
