"""`asr-bench`: accuracy and speed of a bundle, measured through the runtime's public interface."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_bench import report
from asr_bench.manifest import read_manifest
from asr_bench.measure import machine
from asr_runtime.bundle import Bundle
from asr_runtime.errors import AsrError, sentence
from asr_runtime.recognizer import load

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(help="Bundle: a folder or .asr file.")]
ManifestPath = Annotated[Path, typer.Argument(help="JSON lines with audio, text and source.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Name = Annotated[str | None, typer.Option(help="Name of the result's files.")]
BeamSize = Annotated[int | None, typer.Option(min=1, help="Hypotheses kept per frame.")]
Weight = Annotated[float | None, typer.Option(help="In place of the bundle's.")]

DECODERS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True},
    "beam": {"language_model": False},
    "language-model": {},
}


def main() -> None:
    """Entry point of the command."""
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
    output: Output = Path("asr-bench-results"),
    name: Name = None,
    decoder: Annotated[list[str] | None, typer.Option(help=f"{', '.join(DECODERS)}; may be repeated.")] = None,
    beam_size: BeamSize = None,
    alpha: Weight = None,
    beta: Weight = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Word and character error rates, in all and by source, with intervals, and a JSON line for each utterance."""
    from asr_bench.scenarios.accuracy import recognise, summary

    utterances = read_manifest(manifest)
    loaded = Bundle.load(bundle)
    name = name or f"accuracy-{manifest.stem}"
    output.mkdir(parents=True, exist_ok=True)
    beam = {"beam_size": beam_size, "alpha": alpha, "beta": beta}
    beam = {key: value for key, value in beam.items() if value is not None}
    chosen = decoder or [key for key in DECODERS if key != "language-model" or loaded.find("language_model")]
    result: dict[str, Any] = {
        "scenario": "accuracy",
        "machine": machine(),
        "bundle": report.describe_bundle(loaded),
        "manifest": manifest.name,
        "settings": beam,
        "decoders": {},
    }
    for key in chosen:
        if key not in DECODERS:
            raise typer.BadParameter(f"{key!r} is none of {', '.join(DECODERS)}", param_hint="--decoder")
        settings = {**DECODERS[key], **({} if key == "greedy" else beam)}
        errors = list(recognise(load(bundle, threads=threads, **settings), utterances))
        result["decoders"][key] = summary(errors)
        rows = "".join(json.dumps(error.row(), ensure_ascii=False) + "\n" for error in errors)
        report.write_text(output / f"{name}-{key}.jsonl", rows)
        rate = result["decoders"][key]["rates"]["all"]
        print(f"{key}: WER {rate['wer']:.2f} %, CER {rate['cer']:.2f} %, {rate['utterances']} utterances")
    report.write(output, name, result, report.accuracy_markdown(result))


@app.command()
def throughput(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = Path("asr-bench-results"),
    name: Name = None,
    threads: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = [1, 2],  # noqa: B006
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = [1, 8],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Each point is measured so often.")] = 3,
    files: Annotated[int, typer.Option(min=1, help="At most so many recordings of the manifest.")] = 100,
    greedy: Annotated[bool, typer.Option("--greedy", help="Best path instead of the bundle's decoder.")] = False,
    beam_size: BeamSize = None,
) -> None:
    """Real-time factor by threads and batch, load time, cold start and memory."""
    from asr_bench.scenarios import throughput as scenario

    paths = [utterance.audio for utterance in read_manifest(manifest)[:files]]
    settings: dict[str, Any] = {"greedy": True} if greedy else {}
    if beam_size:
        settings["beam_size"] = beam_size
    flags = [*(["--greedy"] if greedy else []), *(["--beam-size", str(beam_size)] if beam_size else [])]
    result = {
        "scenario": "throughput",
        "machine": machine(),
        "bundle": report.describe_bundle(Bundle.load(bundle)),
        "manifest": manifest.name,
        "files": len(paths),
        "rounds": rounds,
        "settings": settings,
        "throughput": scenario.throughput(bundle, paths, threads, batch_size, rounds, settings),
        "cold_start": scenario.cold_start(bundle, paths[0], max(rounds, 3), flags),
    }
    markdown = report.throughput_markdown(result)
    report.write(output, name or "throughput", result, markdown)
    print(markdown, end="")


@app.command()
def decoder(
    emissions: Annotated[Path | None, typer.Option(help=".npz with emis, offs and refs.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="In place of --emissions, with --manifest.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="Recordings for --bundle.")] = None,
    lm: Annotated[Path | None, typer.Option(help="ARPA or KenLM binary; without it nobody has a model.")] = None,
    words: Annotated[Path | None, typer.Option(help="The words of --lm, one a line.")] = None,
    scorer: Annotated[Path | None, typer.Option(help="The same as a .scorer, for ds_ctcdecoder.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(envvar="ASR_BENCH_PEERS", help="NAME=PYTHON that has it; by default all that this one has."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option(help="NAME:key=value,… in place of the tuned ones.")] = None,
    beams: Annotated[str, typer.Option(help="Beam sizes.")] = "10,25,50,100,200,500",
    lengths: Annotated[str, typer.Option(help='Seconds decoded at once; "" for none.')] = "10,60,300,900",
    length_beam: Annotated[int, typer.Option(min=1, help="Beam size for --lengths.")] = 50,
    skip: Annotated[int, typer.Option(min=0, help="The first utterances, that settings were tuned on.")] = 0,
    utterances: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement, for medians.")] = 3,
    output: Output = Path("asr-bench-results"),
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
