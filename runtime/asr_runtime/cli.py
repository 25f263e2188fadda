"""`asr-run`: recordings in, text out."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NoReturn, TextIO

import typer

import asr_runtime
from asr_runtime.bundle import Bundle
from asr_runtime.engines import DEVICES
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import Recognizer, load
from asr_runtime.verify import verify as verify_models
from asr_runtime.writers import FORMATS

DONE, SOME_FAILED, UNUSABLE, READER_LEFT = 0, 1, 2, 128 + 13  # as a shell counts SIGPIPE

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """Entry point of the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, lambda number, _: _leave(128 + number))
    if sys.stderr is None:  # closed by the caller
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (it stays open to the end)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # Text is UTF-8 in any locale, and a file's name comes out with the bytes that it has.
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        app()
    except OSError as error:
        _say(f"the output cannot be written ({error.strerror}); free some space or give another --output.")
        # What is left in the buffer would fail once more when Python flushes it at exit.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNUSABLE)


def _leave(code: int) -> NoReturn:
    """End at once, temporary files removed: a worker may be in a read that never returns; Python would wait for it."""
    atexit._run_exitfuncs()
    os._exit(code)


def _say(error: object) -> None:
    """One line on standard error, whatever a file's name holds."""
    print("asr-run:", *str(error).split("\n"), file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"asr-run {asr_runtime.__version__}")
        raise typer.Exit


def _one_of(names: Collection[str]) -> Any:
    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(names)}")
        return value

    return check


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def run(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Recordings; - is standard input.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Bundle: a folder or .asr file.", show_default="English")] = None,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES), callback=_one_of(DEVICES))] = "auto",
    precision: Annotated[str | None, typer.Option(help="Which of the bundle's models, like fp32.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help=", ".join(FORMATS), callback=_one_of(FORMATS))] = "txt",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there, not to standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    greedy: Annotated[bool, typer.Option("--greedy", help="Best path, no beam search.")] = False,
    no_lm: Annotated[bool, typer.Option("--no-lm", help="Beam search without language model.")] = False,
    lm: Annotated[Path | None, typer.Option(help="Another language model (ARPA or KenLM binary).")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, help="Hypotheses kept per frame.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the language model.")] = None,
    beta: Annotated[float | None, typer.Option(help="Bonus per word.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="all")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows that go through the model together.", show_default="the engine's")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what took how long.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")] = False,
    verify: Annotated[
        Path | None, typer.Option(help="Bundle whose models are checked on this machine, in place of recordings.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None:
    """Print the text of recordings: WAV, FLAC, Ogg, Opus or MP3 of any rate.

    Exit codes: 0 all done, 1 some input (or model, with --verify) failed, 2 wrong usage or unusable bundle, 130
    interrupted, 141 reader left, 143 terminated.
    """
    if verify is not None:
        raise typer.Exit(_verify(verify, device, precision, bool(files)))
    if not files:
        raise typer.BadParameter("give a recording, or - for standard input", param_hint="FILE...")
    if greedy + no_lm + bool(lm) > 1:
        raise typer.BadParameter("at most one of --greedy, --no-lm and --lm makes sense")
    if files.count("-") > 1:
        raise typer.BadParameter("standard input can be read only once; give - once")
    beam = {"beam_size": beam_size, "alpha": alpha, "beta": beta}
    try:
        with _opened(output, force) as out:
            recognizer = load(
                model,
                device,
                precision=precision,
                threads=threads,
                batch_size=batch_size,
                greedy=greedy,
                language_model=lm or not no_lm,
                **{name: value for name, value in beam.items() if value is not None},
            )
            report = Report(len(files), quiet=quiet, verbose=verbose, debug=debug)
            report.loaded(recognizer)
            _transcribe(recognizer, files, FORMATS[format](single=len(files) == 1), out, report)
            report.finished(recognizer)
            if report.failed == len(files):
                raise typer.Exit(SOME_FAILED)  # from within, so that an earlier output stays
    except BrokenPipeError:
        _leave(READER_LEFT)
    except AsrError as error:
        if debug:
            traceback.print_exc()
        _say(error)
        raise typer.Exit(UNUSABLE) from None
    raise typer.Exit(SOME_FAILED if report.failed else DONE)


def _verify(path: Path, device: str, precision: str | None, files: bool) -> int:
    """Print what each model of the bundle gives here; exit code 0 if all are right, 1 if not."""
    if files:
        raise typer.BadParameter("--verify takes no recordings; leave them out")
    passed = True
    try:
        for outcome in verify_models(Bundle.load(path), device, precision=precision):
            passed = passed and outcome.passed
            print(outcome, flush=True)
            for kind, changed in (("best path", outcome.greedy), ("beam search", outcome.text)):
                for expected, got in changed:
                    print(f"  {kind}: expected {expected!r}, got {got!r}")
    except AsrError as error:
        _say(error)
        return UNUSABLE
    return DONE if passed else SOME_FAILED


def _transcribe(recognizer: Recognizer, files: list[str], writer: Any, out: TextIO, report: Report) -> None:
    if "-" in files and sys.stdin is None:
        raise AsrError("standard input is closed; give a file, or pipe a recording in.")
    recordings = (sys.stdin.buffer if file == "-" else file for file in files)
    out.write(writer.head())
    for result in recognizer.results(recordings):
        report.clear()
        if isinstance(result, AsrError):
            report.failure(result)
        else:
            out.write(writer.body(result))
            out.flush()
        report.step(recognizer)
    out.write(writer.tail())
    out.flush()


@contextmanager
def _opened(path: Path | None, force: bool) -> Iterator[TextIO]:
    """Standard output; a pipe or device as it is; or a file that is written beside `path` and renamed when whole."""
    if path is None:
        if sys.stdout is None:
            raise AsrError("standard output is closed; open it or give --output.")
        yield sys.stdout
    elif path.exists() and not path.is_file():
        with _writable(path) as out:
            yield out
    elif path.exists() and not force:
        raise AsrError(f"{path}: something lies here already; give another --output, or --force to replace it.")
    else:
        with _renamed_when_whole(path) as out:
            yield out


def _writable(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise AsrError(f"{path}: the output cannot be written ({error.strerror}); give another --output.") from error


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[TextIO]:
    try:
        target = path.resolve()  # what a link leads to is replaced, never the link
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except (OSError, RuntimeError) as error:
        fault = getattr(error, "strerror", error)
        raise AsrError(f"{path}: the output cannot be written ({fault}); give another --output.") from error
    beside = Path(name)
    atexit.register(beside.unlink, missing_ok=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yield out
        beside.chmod(0o666 & ~_umask())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Report:
    """What is said on standard error: errors, a line of progress on a terminal, and the account at the end."""

    def __init__(self, total: int, *, quiet: bool, verbose: bool, debug: bool) -> None:
        self.failed = 0
        self._done, self._total = 0, total
        self._quiet, self._verbose, self._debug = quiet, verbose, debug
        self._progress = sys.stderr.isatty() and not quiet and not os.environ.get("NO_COLOR")
        self._begin = perf_counter()

    def loaded(self, recognizer: Recognizer) -> None:
        """With --verbose: the bundle, the engine and the decoder."""
        if self._verbose:
            bundle = recognizer.bundle
            print(f"{bundle.name}, {bundle.language}, {bundle.licence}, from {bundle.folder}", file=sys.stderr)
            print(f"{recognizer.engine.device}: {recognizer.engine.description}", file=sys.stderr)

    def clear(self) -> None:
        """Take the line of progress away, so that text can follow."""
        if self._progress:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def failure(self, error: AsrError) -> None:
        """One line for an input that failed."""
        self.failed += 1
        if self._debug:
            traceback.print_exception(error)
        _say(error)

    def step(self, recognizer: Recognizer) -> None:
        """One more input is done."""
        self._done += 1
        if self._progress and self._done < self._total:
            account = f"{self._done} of {self._total} files, {self._account(recognizer)}"
            print(account, end="", file=sys.stderr, flush=True)

    def finished(self, recognizer: Recognizer) -> None:
        """The account, and with --verbose where the time went."""
        seconds = recognizer.seconds
        if self._verbose:
            stages = f"read {seconds.read:.3f}, inference {seconds.inference:.3f}, decode {seconds.decode:.3f}"
            print(f"seconds: {stages}", file=sys.stderr)
        if not self._quiet:
            engine, threads = recognizer.engine, recognizer.threads
            where = f"{engine.device} ({engine.description}), {threads} thread{'s' * (threads > 1)}"
            print(f"{self._account(recognizer)}, {where}", file=sys.stderr)

    def _account(self, recognizer: Recognizer) -> str:
        audio, wall = recognizer.seconds.audio, perf_counter() - self._begin
        factor = f", real-time factor {wall / audio:.4f}" if audio else ""
        return f"{audio:.1f} s of audio in {wall:.2f} s{factor}"
