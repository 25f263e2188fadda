"""`asr-bench`: accuracy and speed of a bundle, measured through the runtime's public interface."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError:  # the runtime is installed alone
    sys.exit("asr-bench: typer is missing; install it with: pip install 'asr-deploy[bench]'")

from asr_bench import report
from asr_bench.machine import machine
from asr_bench.manifest import NORMALISERS, read_manifest
from asr_bench.systems import KNOWN, OURS, entries
from asr_bench.task import Task
from asr_runtime.bundle import Bundle
from asr_runtime.errors import AsrError, sentence
from asr_runtime.recognizer import is_pronounced, load, place

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


def place_if_given(path: Path | None) -> Path | None:
    """Where the bundle of an option lies, which may be the name of one that comes along."""
    return place(path) if path else None


BundlePath = Annotated[
    Path, typer.Argument(help="Bundle: a folder, an .asr file, or english, which comes along.", callback=place)
]
ManifestPath = Annotated[Path, typer.Argument(help="JSON lines with audio, text and source.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Name = Annotated[str | None, typer.Option(help="Name of the result's files.")]
BeamSize = Annotated[int | None, typer.Option(min=1, help="Hypotheses kept per frame.")]
Weight = Annotated[float | None, typer.Option(help="In place of the bundle's.")]
Devices = Annotated[list[str], typer.Option(help="May be repeated.")]
Precisions = Annotated[list[str], typer.Option(help="Models of the bundle; may be repeated; by default its first.")]
ThreadCounts = Annotated[list[int], typer.Option(min=1, help="May be repeated.")]
Rounds = Annotated[int, typer.Option(min=1, help="Each point is measured so often.")]
Files = Annotated[int, typer.Option(min=1, help="At most so many recordings of the manifest.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Best path instead of the bundle's decoder.")]
Peers = Annotated[
    list[str],
    typer.Option(
        metavar="NAME[=MODEL]",
        help=f"{', '.join(KNOWN)}; may be repeated; by default those installed that bring a model.",
    ),
]
Lengths = Annotated[str, typer.Option(help="Lengths of recordings for memory, with commas between.")]
GOT_WORSE = 3  # an exit code
RESULTS = Path("asr-bench-results")
LENGTHS = "10,60,300,1800"

DECODERS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "beam": {"language_model": False},
    "language-model": {},
    "plain-confidences": {"confidence_scale": 1.0, "confidence_offset": 0.0},  # without the bundle's line
}


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that measured processes end, too
    try:
        app()
    except (AsrError, OSError, UnicodeError, ModuleNotFoundError) as error:
        print("asr-bench:", error if isinstance(error, AsrError) else sentence(error, "bench"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def accuracy(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = RESULTS,
    name: Name = None,
    decoder: Annotated[list[str] | None, typer.Option(help=f"{', '.join(DECODERS)}; may be repeated.")] = None,
    beam_size: BeamSize = None,
    alpha: Weight = None,
    beta: Weight = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    normaliser: Annotated[
        str, typer.Option(help=f"Of texts before they are compared: {', '.join(NORMALISERS)}.")
    ] = "plain",
) -> None:
    """Word and character error rates, in all and by source, with intervals, and a JSON line for each utterance."""
    from asr_bench.charts import charts
    from asr_bench.scenarios.accuracy import recognise, summary

    if normaliser not in NORMALISERS:
        raise typer.BadParameter(f"{normaliser!r} is none of {', '.join(NORMALISERS)}", param_hint="--normaliser")
    normalise = NORMALISERS[normaliser]()
    utterances = read_manifest(manifest, normalise)
    loaded = Bundle.load(bundle)
    name = name or f"accuracy-{manifest.stem}"
    output.mkdir(parents=True, exist_ok=True)
    beam = {"beam_size": beam_size, "alpha": alpha, "beta": beta}
    beam = {key: value for key, value in beam.items() if value is not None}
    has = {
        "greedy": not is_pronounced(loaded),
        "language-model": loaded.find("language_model") is not None,
        "plain-confidences": any(key in loaded.decoder for key in DECODERS["plain-confidences"]),
    }
    chosen = decoder or [key for key in DECODERS if has.get(key, True)]
    result: dict[str, Any] = {
        "scenario": "accuracy",
        "machine": machine(),
        "bundle": report.describe_bundle(loaded),
        "manifest": manifest.name,
        "settings": beam,
        "normaliser": normaliser,
        "decoders": {},
    }
    for key in chosen:
        if key not in DECODERS:
            raise typer.BadParameter(f"{key!r} is none of {', '.join(DECODERS)}", param_hint="--decoder")
        if key == "greedy" and not has[key]:
            raise typer.BadParameter("the best path of this bundle is phonemes, no words", param_hint="--decoder")
        settings = {**DECODERS[key], **({} if key == "greedy" else beam)}
        if key == "beam" or not has["language-model"]:
            settings.pop("alpha", None)  # which weighs the language model
        errors = list(recognise(load(bundle, threads=threads, **settings), utterances, normalise))
        result["decoders"][key] = {**summary(errors), "utterances": [error.counts() for error in errors]}
        rows = "".join(json.dumps(error.row(), ensure_ascii=False) + "\n" for error in errors)
        report.write_text(output / f"{name}-{key}.jsonl", rows)
        rate = result["decoders"][key]["rates"]["all"]
        print(f"{key}: WER {rate['wer']:.2f} %, CER {rate['cer']:.2f} %, {rate['utterances']} utterances")
    report.write(output, name, result, report.accuracy_markdown(result))
    for picture in charts(result):
        report.write_text(output / f"{name}-reliability.svg", picture)


@app.command()
def throughput(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = RESULTS,
    name: Name = None,
    device: Devices = ["cpu"],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    threads: ThreadCounts = [1, 2],  # noqa: B006
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = [1, 8],  # noqa: B006
    rounds: Rounds = 3,
    files: Files = 100,
    greedy: Greedy = False,
    beam_size: BeamSize = None,
    peer: Peers = [],  # noqa: B006
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Another bundle (or english), measured in turns, as NAME-beside: for `compare`.",
            callback=place_if_given,
        ),
    ] = None,
) -> None:
    """Real-time factor by device, precision, threads and batch; others on the same recordings beside."""
    from asr_bench.scenarios import throughput as scenario

    options = _options(greedy, beam_size)
    others = entries(beside, [OURS], options) if beside else []
    own, their = (
        [(entry, each) for entry in found for each in entry.settings(device, precision, threads, batch_size)]
        for found in (entries(bundle, peer, options), others)
    )
    task = Task.of(bundle, manifest, files, options, rounds, own + their)
    points = scenario.throughput(task)
    if beside:
        result = replace(task, bundle=beside).result("throughput", points[len(own) :])
        report.write(output, f"{name or 'throughput'}-beside", result, report.speed_markdown(result))
    _finish(output, name, task.result("throughput", points[: len(own)]))


@app.command()
def latency(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = RESULTS,
    name: Name = None,
    device: Devices = ["cpu"],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    threads: ThreadCounts = [1],  # noqa: B006
    rounds: Rounds = 3,
    files: Files = 100,
    greedy: Greedy = False,
    beam_size: BeamSize = None,
    peer: Peers = [],  # noqa: B006
    bound: Annotated[
        list[float], typer.Option(min=0.001, help="Seconds within which 99 % of a server's requests must be served.")
    ] = [1.0],  # noqa: B006
    workers: Annotated[list[int], typer.Option(min=1, help="Of the server; may be repeated.")] = [1, 2],  # noqa: B006
    requests: Annotated[int, typer.Option(min=10, help="To the server at each rate.")] = 100,
) -> None:
    """One recording after another: p50, p90, p99 by length; and a server's highest rate within a bound."""
    from asr_bench.scenarios import latency as single
    from asr_bench.scenarios import server

    options = _options(greedy, beam_size)
    found = entries(bundle, peer, options)
    pairs = [(entry, setting) for entry in found for setting in entry.settings(device, precision, threads, [1])]
    task = Task.of(bundle, manifest, files, options, rounds, pairs)
    points = single.latency(task)
    served = replace(task, pairs=[(found[0], each) for each in found[0].settings(device, precision, workers, [1])])
    for seconds in bound:
        points += server.server(served, seconds, requests)
    _finish(output, name, task.result("latency", points, requests=requests))


@app.command("cold-start")
def cold_start(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = RESULTS,
    name: Name = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Rounds = 5,
    greedy: Greedy = False,
    beam_size: BeamSize = None,
) -> None:
    """From the start of a process to the text of a recording of about 5 s, and where that time goes."""
    from asr_bench.scenarios import cold_start as scenario

    options = _options(greedy, beam_size)
    ours = entries(bundle, [OURS], options)[0]
    task = Task.of(bundle, manifest, 1000, options, rounds, [(ours, ours.settings(["cpu"], [], [threads], [1])[0])])
    _finish(output, name, task.result("cold-start", scenario.cold_start(task)))


@app.command()
def memory(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = RESULTS,
    name: Name = None,
    device: Devices = ["cpu"],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    threads: ThreadCounts = [1],  # noqa: B006
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = [1],  # noqa: B006
    rounds: Rounds = 1,
    greedy: Greedy = False,
    beam_size: BeamSize = None,
    seconds: Lengths = LENGTHS,
) -> None:
    """Peak memory by the length of a recording."""
    from asr_bench.scenarios import memory as scenario

    lengths = _numbers(seconds, "--seconds")
    options = _options(greedy, beam_size)
    ours = entries(bundle, [OURS], options)[0]
    pairs = [(ours, setting) for setting in ours.settings(device, precision, threads, batch_size)]
    task = Task.of(bundle, manifest, 100, options, rounds, pairs)
    _finish(output, name, task.result("memory", scenario.memory(task, lengths)))


@app.command()
def roofline(
    bundle: BundlePath,
    output: Output = RESULTS,
    name: Name = None,
    precision: Precisions = [],  # noqa: B006
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = [1, 8],  # noqa: B006
    rounds: Rounds = 3,
    seconds: Annotated[float, typer.Option(min=0.1, max=20, help="Of each recording.")] = 10.0,
) -> None:
    """The model's operations and bytes, the core's matrix and memory speed, and the share of them that is reached."""
    from asr_bench.scenarios import roofline as scenario

    ours = entries(bundle, [OURS], {})[0]
    pairs = [(ours, setting) for setting in ours.settings(["cpu"], precision, [1], batch_size)]
    task = Task.of(bundle, None, 0, {}, rounds, pairs)
    _finish(output, name, task.result("roofline", scenario.roofline(task, seconds)))


@app.command("report")
def make_report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="JSON files of asr-bench.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page; .md and .json go beside.")] = Path(
        "report.html"
    ),
) -> None:
    """One HTML page of results that opens anywhere, the same as Markdown, and as JSON by the results' names."""
    from asr_bench import page

    found = page.read_results(results)
    written = {
        ".html": page.page(found),
        ".md": "\n".join(page.markdown_of(name, result) for name, result in found.items()),
        ".json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
    }
    for suffix, text in written.items():
        report.write_text(output.with_suffix(suffix), text)
    print(f"asr-bench: wrote {output}, .md and .json", file=sys.stderr)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A result.")],
    after: Annotated[Path, typer.Argument(help="A later result of the same scenario.")],
    least: Annotated[float, typer.Option(min=0, help="Smaller changes of speed count as none.")] = 0.03,
) -> None:
    """What got better or worse beyond the noise; exit code 3 if anything got worse."""
    from asr_bench import compare as comparison
    from asr_bench.page import read_results

    (first,), (second,) = read_results([before]).values(), read_results([after]).values()
    changes = comparison.compare(first, second, least)
    print(comparison.markdown(changes), end="")
    if any(change.verdict == comparison.WORSE for change in changes):
        raise typer.Exit(GOT_WORSE)


@app.command("all")
def everything(
    bundle: BundlePath,
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Speed is measured on the first.")],
    output: Output = RESULTS,
    rounds: Rounds = 5,
    files: Files = 60,
    peer: Peers = [],  # noqa: B006
    seconds: Lengths = LENGTHS,
) -> None:
    """All scenarios but `decoder`, and a report of them: NAME-….json and NAME.html for the bundle's name."""
    name, speech = Bundle.load(bundle).name, manifests[0]
    for manifest in manifests:
        accuracy(bundle, manifest, output, f"{name}-{manifest.stem}")
    throughput(bundle, speech, output, f"{name}-throughput", rounds=rounds, files=files, peer=peer)
    latency(bundle, speech, output, f"{name}-latency", rounds=min(rounds, 3), files=files, peer=[OURS])
    cold_start(bundle, speech, output, f"{name}-cold-start", rounds=rounds)
    memory(bundle, speech, output, f"{name}-memory", seconds=seconds)
    roofline(bundle, output, f"{name}-roofline", rounds=rounds)
    measured = [manifest.stem for manifest in manifests]
    parts = [*measured, "throughput", "latency", "cold-start", "memory", "roofline"]
    make_report([output / f"{name}-{part}.json" for part in parts], output / f"{name}.html")


def _options(greedy: bool, beam_size: int | None) -> dict[str, Any]:
    if greedy and beam_size:
        raise typer.BadParameter("greedy decoding has no beam; leave one of them out", param_hint="--beam-size")
    return {**({"greedy": True} if greedy else {}), **({"beam_size": beam_size} if beam_size else {})}


def _finish(output: Path, name: str | None, result: dict[str, Any]) -> None:
    markdown = report.speed_markdown(result)
    report.write(output, name or result["scenario"], result, markdown)
    print(markdown, end="")


@app.command()
def decoder(
    emissions: Annotated[Path | None, typer.Option(help=".npz with emis, offs and refs.")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="In place of --emissions, with --manifest; or english, which comes along.", callback=place_if_given
        ),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Recordings for --bundle.")] = None,
    lm: Annotated[Path | None, typer.Option(help="ARPA or KenLM binary; without it nobody has a model.")] = None,
    words: Annotated[Path | None, typer.Option(help="The words of --lm, one a line.")] = None,
    scorer: Annotated[Path | None, typer.Option(help="The same as a .scorer, for ds_ctcdecoder.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(envvar="ASR_BENCH_PEERS", help="NAME=PYTHON that has it, or library=PATH; by default all here."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option(help="NAME:key=value,… in place of the tuned ones.")] = None,
    beams: Annotated[str, typer.Option(help="Beam sizes.")] = "10,25,50,100,200,500",
    lengths: Annotated[str, typer.Option(help='Seconds decoded at once; "" for none.')] = "10,60,300,900",
    length_beam: Annotated[int, typer.Option(min=1, help="Beam size for --lengths.")] = 50,
    skip: Annotated[int, typer.Option(min=0, help="The first utterances, that settings were tuned on.")] = 0,
    utterances: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement, for medians.")] = 3,
    output: Output = RESULTS,
    name: Name = None,
) -> None:
    """Our beam search beside others: error rates, processor time, memory, by beam and by length."""
    from asr_bench import contestants, decoder_report
    from asr_bench.emissions import obtain
    from asr_bench.scenarios import decoder as scenario

    sizes, seconds = _numbers(beams, "--beams"), _numbers(lengths, "--lengths") if lengths else []
    files = contestants.check_files(lm, words, scorer)
    chosen = contestants.choose(peer or [], settings or [], files)
    heard, described = obtain(emissions, bundle, manifest, slice(skip, utterances and skip + utterances))
    result = {
        "scenario": "decoder",
        "machine": machine(),
        "emissions": described,
        **scenario.measure(
            chosen,
            heard,
            files,
            beams=sizes,
            lengths=seconds,
            length_beam=length_beam,
            repeats=repeats,
            progress=lambda told: print(told, file=sys.stderr),
        ),
    }
    name = name or f"decoder-{Path(described['name']).stem}"
    report.write(output, name, result, decoder_report.markdown(result, name))
    for key, picture in decoder_report.charts(result).items():
        report.write_text(output / f"{name}-{key}.svg", picture)
    print(decoder_report.markdown(result, name), end="")


def _numbers(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not numbers from 1 on with commas between", param_hint=option)
    return [int(part) for part in parts]
