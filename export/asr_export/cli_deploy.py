"""The commands of `asr-export` that bring a bundle onto a machine with a GPU; they need no PyTorch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from asr_export.arguments import BundlePath, Force, KnownBundle, found
from asr_runtime.engines.driver import probe
from asr_runtime.errors import EngineError


def to_tensorrt_command(
    bundle: BundlePath,
    precision: Annotated[str | None, typer.Option(help="fp16 or fp32.  [default: fp16, if there is a model]")] = None,
    max_batch: Annotated[int, typer.Option(help="Largest batch that the engine takes.")] = 16,
    min_seconds: Annotated[float, typer.Option(help="Shortest audio; what is shorter is padded.")] = 0.1,
    opt_seconds: Annotated[float, typer.Option(help="Audio that the engine is tuned for.")] = 10.0,
    max_seconds: Annotated[float, typer.Option(help="Longest audio; windows are 20 s.")] = 20.0,
    streaming: Annotated[bool, typer.Option("--streaming", help="A second profile for single items to 2 s.")] = False,
    hardware: Annotated[str, typer.Option(help="Other GPUs, too: none, ampere+, same-compute-capability.")] = "none",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For later versions of this major TensorRT, too.")
    ] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="File of measurements, read and written.")] = None,
    rtx: Annotated[bool, typer.Option("--rtx", help="With TensorRT-RTX, for GeForce and RTX; needs no GPU.")] = False,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="With --rtx: GPUs to build for, like 8.9.")
    ] = None,
    force: Force = False,
) -> None:
    """Build a TensorRT engine for this machine's GPU from the bundle's model, and add it to the bundle."""
    from asr_export.tensorrt import Settings, to_tensorrt
    from asr_runtime.engines.target import HARDWARE
    from asr_runtime.verify import all_passed, verify

    if hardware not in HARDWARE:
        raise typer.BadParameter(f"{hardware!r} is none of {', '.join(HARDWARE)}", param_hint="--hardware")
    settings = Settings(
        max_batch=max_batch,
        min_seconds=min_seconds,
        opt_seconds=opt_seconds,
        max_seconds=max_seconds,
        streaming=streaming,
        hardware=hardware,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
        rtx=rtx,
        capabilities=tuple(compute_capability or ()),
    )
    with progress_line() as say:
        made, file = to_tensorrt(bundle, settings, precision=precision, force=force, report=say)
    typer.echo(f"{bundle}: {file.path}, {file.bytes / 1e6:.1f} MB")
    if made.find("check") is None or (rtx and not has_gpu()):
        typer.echo("not verified: " + ("there is no GPU here" if made.find("check") else "the bundle carries no check"))
        return
    if not all_passed(verify(made, "tensorrt", precision=file.precision), typer.echo):
        raise typer.Exit(1)


def to_triton_command(
    bundle: KnownBundle,
    repository: Annotated[Path, typer.Argument(help="Triton's model repository, a folder; made if it is not there.")],
    name: Annotated[str | None, typer.Option(help="Name that clients use.  [default: the bundle's]")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model file of the bundle, like model.fp16.onnx.  [default: a CPU's]")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Largest batch; an engine's own is the limit.")] = 16,
    delay: Annotated[int, typer.Option(help="Microseconds that a request may wait for others.")] = 2000,
    instances: Annotated[int, typer.Option(help="Batches that are worked on side by side.")] = 2,
    force: Force = False,
) -> None:
    """Write a bundle into a model repository of Triton Inference Server: clients send waveforms and get text."""
    from asr_export.triton import Settings, to_triton

    settings = Settings(name=name, file=model, max_batch=max_batch, delay=delay, instances=instances)
    names = to_triton(bundle, repository, settings, force=force)
    typer.echo(f"{repository}: {' and '.join(names)}")


def doctor_command(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to try, which carries a check.  [default: english]", callback=found)
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail unless cuda or tensorrt works, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is installed and try each device; exit code 1 unless the CPU (with --gpu a GPU, too) works."""
    from asr_export.doctor import examine

    report = examine(bundle, gpu=gpu)
    if as_json:
        typer.echo(json.dumps(report.json(), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(map(str, report.findings)))
    raise typer.Exit(0 if report.healthy else 1)


def has_gpu() -> bool:
    """Whether this machine can run an engine at all."""
    try:
        probe()
    except EngineError:
        return False
    return True


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: on a terminal in one line, else a line every 10 seconds at most."""
    terminal, due = sys.stderr.isatty() and not os.environ.get("NO_COLOR"), 0.0

    def report(text: str) -> None:
        nonlocal due
        if terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif monotonic() >= due:
            print(text, file=sys.stderr, flush=True)
            due = monotonic() + 10

    yield report
    if terminal:
        report("")
