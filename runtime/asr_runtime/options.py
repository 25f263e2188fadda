"""The words that `asr-run` takes, ours and Whisper's, and what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import asr_runtime
from asr_runtime.decoder import BeamConfig
from asr_runtime.engines import DEVICES
from asr_runtime.errors import AsrError, DecoderError
from asr_runtime.raw import ENCODINGS, RawFormat
from asr_runtime.recognizer import BATCH_SECONDS, DEFAULT
from asr_runtime.subtitles import LINE_WIDTH, LINES, Layout
from asr_runtime.windows import WINDOW_SECONDS
from asr_runtime.writers import FORMATS, Style

HOT_WORD_BOOST = 4.0  # natural logarithm; docs/decoder.md has what was measured
SOUND_BOOST = 16.0  # of a word that says how it sounds, as the language model scores it as an unknown one
READINGS = frozenset({"json", "jsonl", "verbose_json"})  # formats that have other readings
TRUE_OR_FALSE = {"--verbose": "-v", "--word-timestamps": None}  # Whisper's words that take True or False

EXIT_CODES = (
    "Exit codes: 0 all done, 1 some input (or model, with --verify) failed, 2 wrong usage or unusable bundle, "
    "130 interrupted, 141 reader left, 143 terminated. Options may be written with - or _ between their words."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong usage is one line and exit code 2."""
        self.exit(2, f"asr-run: {message}; see asr-run --help.\n")


@dataclass(frozen=True)
class Destination:
    """Where the texts go: `file`, or files below `folder`, or files `beside` the recordings, or standard output."""

    file: Path | None
    folder: Path | None
    beside: bool
    formats: tuple[str, ...]
    style: Style
    force: bool
    resume: bool


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; exits with 2 where they are wrong, with 0 after --help and --version."""
    parser = _parser()
    options = parser.parse_args(_spelt(arguments))
    if bool(options.files) == bool(options.verify):
        parser.error("--verify takes no recordings; leave them out" if options.files else "give a recording, or -")
    if options.greedy + options.no_lm + bool(options.lm) > 1:
        parser.error("at most one of --greedy, --no-lm and --lm makes sense")
    if options.greedy and (options.hotword or options.hotwords_file or options.n_best):
        parser.error("--greedy has neither hot words nor other readings; leave it out, or them")
    if (options.n_best or 1) > 1 and not READINGS.intersection(options.format):
        parser.error(f"--n-best shows in {', '.join(sorted(READINGS))} alone; give one as --format, or leave it out")
    if options.files.count("-") > 1:
        parser.error("standard input can be read only once; give - once")
    if bool(options.output) + bool(options.output_dir) + options.beside > 1:
        parser.error("at most one of --output, --output-dir and --beside makes sense")
    if options.raw is None and (options.rate or options.channels):
        parser.error("--rate and --channels describe raw samples; give --raw, too")
    if options.raw is not None and not options.rate:
        parser.error("raw samples need their --rate in hertz")
    if options.ray and (options.raw is not None or options.language or "-" in options.files):
        parser.error("--ray takes neither standard input nor --raw nor --language; leave it out, or them")
    fault = _misplaced(destination(options))
    if fault:
        parser.error(fault)
    return options


def destination(options: argparse.Namespace) -> Destination:
    """Where the texts are to go. `--output` of a folder, or of a name that ends in /, is that folder; - is no file."""
    file, folder = options.output if options.output != "-" else None, options.output_dir
    if file and (file.endswith("/") or Path(file).is_dir()):
        file, folder = None, file
    return Destination(
        file=Path(file) if file else None,
        folder=Path(folder) if folder else None,
        beside=options.beside,
        formats=options.format,
        style=Style(options.word_timestamps, Layout(options.max_line_width, options.max_line_count)),
        force=options.force,
        resume=options.resume,
    )


def _misplaced(place: Destination) -> str | None:
    """What is wrong with a destination."""
    many_files = bool(place.folder) or place.beside
    if len(place.formats) > 1 and not many_files:
        return "several formats need a folder for their files: --output-dir or --beside"
    if place.resume and place.force:
        return "--resume keeps what is written and --force replaces it; give one of them"
    if place.resume and not many_files and not (place.file and place.formats == ("jsonl",)):
        return "--resume needs --output-dir, --beside, or --format jsonl with --output"
    return None


def search_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the beam search that were given, hot words among them."""
    named = {"beam_size": options.beam_size, "alpha": options.alpha, "beta": options.beta, "n_best": options.n_best}
    settings = {name: value for name, value in named.items() if value is not None}
    if hot_words := dict(map(_hot_word, [*options.hotword, *_lines(options.hotwords_file)])):
        settings["hot_words"] = hot_words
    return settings


def raw_format(options: argparse.Namespace) -> RawFormat | None:
    """How the samples of headerless input lie."""
    return RawFormat(options.raw, options.rate, options.channels or 1) if options.raw else None


def _hot_word(text: str) -> tuple[str, float]:
    """PHRASE or PHRASE:BOOST, PHRASE=SOUND or PHRASE=SOUND:BOOST."""
    phrase, colon, boost = text.rpartition(":")
    if not colon:
        return text, SOUND_BOOST if "=" in text else HOT_WORD_BOOST
    try:
        return phrase, float(boost)
    except ValueError:
        raise DecoderError(f"got the boost {boost!r} in the hot word {text!r}; give PHRASE:NUMBER.") from None


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AsrError(f"{path}: the hot words cannot be read ({fault}); give one phrase a line.") from error
    return [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")]


def _spelt(arguments: Sequence[str]) -> list[str]:
    """Arguments with - for _ in options' names, and Whisper's True and False as flags."""
    spelt: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*spelt, *arguments[number:]]
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            spelt.append(name.replace("_", "-") + equals + value)
            if spelt[-1] in (f"{flag}={chosen}" for flag in TRUE_OR_FALSE for chosen in ("True", "False")):
                spelt[-1:] = [name.replace("_", "-"), value]
                argument = value
        else:
            spelt.append(argument)
        if argument in ("True", "False") and len(spelt) > 1 and spelt[-2] in TRUE_OR_FALSE:
            flag = spelt[-2].removeprefix("--")
            spelt[-2:] = [f"--{flag}" if argument == "True" else f"--no-{flag}"]
    return spelt


def _whole(least: int) -> Any:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= 10**6:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to 1000000")
        return int(text)

    return number


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _one_of(names: Sequence[str]) -> Any:
    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    return name


def _formats(text: str) -> tuple[str, ...]:
    names = [name.replace("-", "_") for name in ("txt,srt,vtt,tsv,json" if text == "all" else text).split(",")]
    one = _one_of(tuple(FORMATS))
    chosen = tuple(dict.fromkeys(map(one, names)))
    if {"json", "verbose_json"} <= set(chosen):
        raise argparse.ArgumentTypeError("json and verbose_json would both be NAME.json; give one of them")
    return chosen


def _parser() -> _Parser:
    parser = _Parser(
        prog="asr-run",
        usage="asr-run [OPTIONS] FILE...",
        description="Print the text of recordings: WAV, FLAC, Ogg, Opus or MP3; videos where ffmpeg or PyAV is there.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="recordings, folders, patterns, manifests (.jsonl); - is standard input",
    )
    parser.add_argument("--version", action="version", version=f"asr-run {asr_runtime.__version__}")
    _model_options(parser.add_argument_group("model"))
    _input_options(parser.add_argument_group("input"))
    _output_options(parser.add_argument_group("output"))
    _search_options(parser.add_argument_group("search"))
    _run_options(parser.add_argument_group("running"))
    return parser


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        metavar="BUNDLE",
        help=f"a bundle's folder, .asr file or name (by default our {DEFAULT})",
    )
    group.add_argument("--device", type=_one_of(DEVICES), default="auto", help=", ".join(DEVICES))
    group.add_argument("--precision", metavar="P", help="which of the bundle's models, like fp32")
    group.add_argument("--language", metavar="CODE", help="refuse a bundle of another language")
    group.add_argument("--vad", action="store_true", help="hear only where somebody speaks (asr-deploy[vad])")
    group.add_argument("--task", type=_one_of(("transcribe",)), help="transcribe is all that there is")


def _input_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--raw", type=_one_of(tuple(ENCODINGS)), help=f"the input is samples without header: {', '.join(ENCODINGS)}"
    )
    group.add_argument("--rate", type=_whole(1000), metavar="HERTZ", help="of raw samples")
    group.add_argument("--channels", type=_whole(1), metavar="N", help="of raw samples (default: 1)")


def _output_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-f",
        "--format",
        "--output-format",
        dest="format",
        type=_formats,
        default=("txt",),
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; into a folder several, with commas, or all",
    )
    add("-o", "--output", metavar="PATH", help="write there, not to standard output (-); in a folder, a file for each")
    add("--output-dir", metavar="FOLDER", help="write a file for each recording there; made if it is not there")
    add("--beside", action="store_true", help="write each file beside its recording")
    add("--force", action="store_true", help="replace output files")
    add("--resume", action="store_true", help="skip recordings whose output is there already")
    add(
        "--word-timestamps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether JSON lists words with their times",
    )
    add("--max-line-width", type=_whole(10), default=LINE_WIDTH, metavar="N", help="characters in a subtitle's line")
    add("--max-line-count", type=_whole(1), default=LINES, metavar="N", help="lines of a subtitle")
    add("--n-best", type=_whole(1), metavar="N", help="so many readings in JSON")


def _search_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--greedy", action="store_true", help="best path, no beam search")
    add("--no-lm", action="store_true", help="beam search without language model")
    add("--lm", metavar="FILE", help="another language model: ARPA, KenLM binary or .scorer package")
    usual = "(default: the bundle's, else {:g})".format
    add("--beam-size", type=_whole(1), metavar="N", help=f"hypotheses kept per frame {usual(BeamConfig.beam_size)}")
    add(
        "--alpha",
        type=float,
        metavar="A",
        help=f"weight of the language model; much above 1 it costs words, then all {usual(BeamConfig.alpha)}",
    )
    add("--beta", type=float, metavar="B", help=f"bonus per word {usual(BeamConfig.beta)}, 0 without language model")
    add(
        "--hotword",
        action="append",
        default=[],
        metavar="PHRASE[=SOUND][:BOOST]",
        help=f"expect it; may be repeated (boost: natural logarithm, {HOT_WORD_BOOST:g} by default, {SOUND_BOOST:g} "
        "where it says how it sounds)",
    )
    add("--hotwords-file", metavar="FILE", help="hot words, one a line")


def _run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--threads", type=_whole(1), metavar="N", help="processor threads (default: all)")
    add(
        "--batch-size",
        type=_whole(1),
        metavar="N",
        help="windows that go through the model together (default: as suits the engine)",
    )
    add(
        "--max-batch-seconds",
        type=_positive,
        default=BATCH_SECONDS,
        metavar="S",
        help="audio in a batch at most, with its padding (default: %(default)g)",
    )
    add(
        "--window-seconds",
        type=_positive,
        default=WINDOW_SECONDS,
        metavar="S",
        help="windows that recordings longer than 20 s, or than one window, are cut into (default: %(default)g)",
    )
    add("-v", "--verbose", action=argparse.BooleanOptionalAction, default=False, help="say what took how long")
    add("-q", "--quiet", action="store_true", help="only errors on standard error")
    add("--ray", metavar="HOST:PORT", help="run on the Ray cluster there, whose machines see the same files")
    add(
        "--verify",
        metavar="BUNDLE",
        help="check a bundle's models on this machine, in place of recordings",
    )
    add("--debug", action="store_true", help="show a traceback with an error")
