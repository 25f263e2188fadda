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
from asr_runtime.errors import AsrError
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
    except AsrError as error:
        print(f"asr-bench: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def accuracy(
    bundle: BundlePath,
    manifest: ManifestPath,
    output: Output = Path("benchmarks/results"),
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
    output: Output = Path("benchmarks/results"),
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
