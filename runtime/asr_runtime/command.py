"""What `asr-run` does: recordings in, text out."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_runtime import outputs
from asr_runtime.audio import is_address
from asr_runtime.bundle import Bundle
from asr_runtime.errors import AsrError, AudioError, sentence
from asr_runtime.inputs import STANDARD_INPUT, Input, expand
from asr_runtime.options import destination, parse, raw_format, search_settings
from asr_runtime.outputs import Output
from asr_runtime.progress import Report, say
from asr_runtime.raw import RawAudio, RawFormat
from asr_runtime.recognizer import Recognizer, load, place
from asr_runtime.transcript import Transcript

DONE, SOME_FAILED, UNUSABLE, READER_LEFT = 0, 1, 2, 128 + 13  # as a shell counts SIGPIPE
GPU = ("cuda", "tensorrt")


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments of `asr-run` say; its exit code."""
    if sys.stderr is None:  # closed by the caller
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (it stays open to the end)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # Text is UTF-8 in any locale, and a file's name comes out with the bytes that it has.
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    options = parse(arguments)
    try:
        code = _verify(options) if options.verify else _run(options)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # here a full disk or a reader that has left still changes the code
        return code
    except BrokenPipeError:
        return READER_LEFT
    except AsrError as error:
        if options.debug:
            traceback.print_exc()
        say(error)
    except OSError as error:
        say(f"the output cannot be written ({error.strerror}); free some space or give another --output.")
    return UNUSABLE


class _NothingCameOut(Exception):
    """All recordings failed: an earlier output stays."""


def _run(options: argparse.Namespace) -> int:
    """Transcribe all that the options name; the exit code."""
    if STANDARD_INPUT in options.files and sys.stdin is None:
        raise AsrError("standard input is closed; give a file, or pipe a recording in.")
    found = list(expand(options.files, raw=options.raw is not None))
    recordings = [item for item in found if isinstance(item, Input)]
    report = Report(quiet=options.quiet, verbose=options.verbose, debug=options.debug)
    for item in found:
        if isinstance(item, AudioError):
            report.failure(item)
    try:
        with outputs.opened(destination(options), recordings) as output:
            wanted = _wanted(recordings, output, report)
            if wanted:
                if options.ray:
                    _on_cluster(options, wanted, output, report)
                else:
                    _transcribe(_recognizer(options), wanted, raw_format(options), output, report)
            output.end()
            if report.failed == len(found):
                raise _NothingCameOut
    except _NothingCameOut:
        pass
    report.finished()
    return SOME_FAILED if report.failed else DONE


def _verify(options: argparse.Namespace) -> int:
    """Print what each model of the bundle gives here; exit code 0 if all are right, 1 if not."""
    from asr_runtime.verify import all_passed, verify

    outcomes = verify(Bundle.load(place(options.verify)), options.device, precision=options.precision)
    return DONE if all_passed(outcomes, lambda line: print(line, flush=True)) else SOME_FAILED


def _wanted(recordings: Sequence[Input], output: Output, report: Report) -> list[Input]:
    """The recordings that the output lacks; where one cannot be written, its error is reported before any work."""
    wanted, kept = [], 0
    for recording in recordings:
        try:
            if output.wants(recording):
                wanted.append(recording)
            else:
                kept += 1
        except AsrError as error:
            report.failure(error)
    report.kept(kept, len(recordings))
    return wanted


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What `load` takes beside the bundle."""
    return {
        "device": options.device,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "batch_seconds": options.max_batch_seconds,
        "window_seconds": options.window_seconds,
        "greedy": options.greedy,
        "vad": options.vad,
        "language_model": str(Path(options.lm).absolute()) if options.lm else not options.no_lm,
        **search_settings(options),
    }


def _recognizer(options: argparse.Namespace) -> Recognizer:
    recognizer = load(options.model, threads=options.threads, **_settings(options))
    spoken = recognizer.bundle.language
    if options.language and options.language.lower() != spoken.lower():
        raise AsrError(
            f"the bundle {recognizer.bundle.name} is for {spoken}, not for {options.language}; give another."
        )
    return recognizer


def _transcribe(
    recognizer: Recognizer, wanted: Sequence[Input], raw: RawFormat | None, output: Output, report: Report
) -> None:
    report.loaded(recognizer, len(wanted))
    _write(recognizer.results(_source(recording, raw) for recording in wanted), wanted, output, report)


def _on_cluster(options: argparse.Namespace, wanted: Sequence[Input], output: Output, report: Report) -> None:
    """The same on a Ray cluster, by workers of `--threads` cores each."""
    try:
        from asr_runtime import ray as cluster
    except ModuleNotFoundError as error:
        raise AsrError(sentence(error, "ray")) from None
    # What Ray says of lost workers goes to standard output; the texts have theirs already.
    with redirect_stdout(sys.stderr), cluster.connected(options.ray):
        dataset = cluster.listed(_everywhere(recording.name) for recording in wanted)
        settings = {**_settings(options), "cpus": options.threads or 1, "gpus": float(options.device in GPU)}
        done = cluster.results(cluster.transcribe(dataset, options.model, **settings))
        named = (_renamed(result, recording) for result, recording in zip(done, wanted, strict=True))
        _write(named, wanted, output, report)


def _everywhere(name: str) -> str:
    """A recording as workers find it, who have other working folders."""
    return name if is_address(name) else str(Path(name).absolute())


def _renamed(result: Transcript | AsrError, recording: Input) -> Transcript | AsrError:
    return result if isinstance(result, AsrError) else replace(result, audio=recording.name)


def _write(results: Iterable[Transcript | AsrError], wanted: Sequence[Input], output: Output, report: Report) -> None:
    for result, recording in zip(results, wanted, strict=True):
        if isinstance(result, AsrError):
            report.failure(result)
        else:
            with report.aside():
                output.write(recording, result)
        report.step()


def _source(recording: Input, raw: RawFormat | None) -> Any:
    source: Any = sys.stdin.buffer if recording.name == STANDARD_INPUT else recording.name
    return RawAudio(source, raw) if raw else source
