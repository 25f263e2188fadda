"""`asr-train`: fit a recipe, evaluate a checkpoint, make shards, make synthetic speech."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ModuleNotFoundError:  # the runtime is installed alone
    sys.exit("asr-train: typer is missing; install it with: pip install 'asr-deploy[train]'")

from asr_runtime.errors import AsrError, BundleError, RecipeError
from asr_runtime.recognizer import place

if TYPE_CHECKING:
    from asr_training.recipe import Recipe

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]


def choose_device(name: str) -> str:
    """The PyTorch device that was asked for, if it can be had."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise RecipeError(f"unknown device {name!r}; take auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError("the device cuda was asked for, but PyTorch finds none here; install its driver or take cpu")
    return name


def trained(path: Path | None) -> Path | None:
    """The path of a checkpoint or bundle, where what is not there may be the name of a bundle that comes along."""
    try:
        return None if path is None else place(path)
    except BundleError:
        return path


@app.command("fit")
def fit_command(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a run in it goes on.  [default: runs/NAME]")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A checkpoint or bundle, english say, whose weights a new run begins with.", callback=trained
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the data that are faulty or doubtful.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a recipe. Checkpoints go to OUT/last and OUT/best, the table of results to OUT/epochs.txt."""
    from asr_training.loop import fit
    from asr_training.recipe import read_recipe
    from asr_training.report import Row, format_table

    chosen = read_recipe(recipe)
    folder = out or Path("runs", chosen.name)
    position = fit(chosen, folder, choose_device(device), start, skip_bad)
    if int(os.environ.get("RANK", "0")) > 0:
        return  # of torchrun's processes the first one tells the result
    typer.echo(format_table([Row(**row) for row in position.rows]), nl=False)
    if position.rows:
        write_report(folder, chosen, position.rows, choose_device(device))
    typer.echo(f"best weights: {folder / 'best'} (WER {100 * position.best_wer:.1f} %)")


def write_report(folder: Path, recipe: Recipe, rows: list[dict[str, Any]], device: str) -> None:
    """Write FOLDER/report.html: how the run went, and what its best weights make of the validation data."""
    import torch

    from asr_training.checkpoint import load_checkpoint
    from asr_training.corpus import Corpus
    from asr_training.evaluate import recognise
    from asr_training.page import write_page
    from asr_training.report import Row

    best = load_checkpoint(folder / "best")
    corpus = Corpus(recipe.data.validation, recipe.data.for_evaluation, best.features, folder / "features")
    results = recognise(best.model.to(device), corpus, torch.device(device))
    write_page(folder / "report.html", recipe.name, [Row(**row) for row in rows], corpus, results)


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    manifest: Annotated[list[str], typer.Argument(help="Manifests or LibriSpeech folders.")],
    device: Device = "auto",
    pronunciations: Annotated[
        str, typer.Option(help="Of the words, for a model that learnt phonemes; the rates are of phonemes then.")
    ] = "",
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print each utterance's text beside its reference.")
    ] = False,
) -> None:
    """Print loss and word and character error rates of a checkpoint, by greedy decoding."""
    import torch

    from asr_training.checkpoint import load_checkpoint
    from asr_training.checks import whole_corpus
    from asr_training.evaluate import recognise, score
    from asr_training.recipe import Source

    loaded = load_checkpoint(checkpoint)
    where = torch.device(choose_device(device))
    with whole_corpus(loaded, tuple(Source(path) for path in manifest), pronunciations) as corpus:
        results = recognise(loaded.model.to(where), corpus, where)
        for name, line in score(results, corpus).items():
            figures = f"WER {100 * line.wer:5.1f} %  CER {100 * line.cer:5.1f} %  loss {line.loss:.3f}"
            typer.echo(f"{name:20s} {figures}  {line.utterances} utterances")
    if verbose:
        for utterance, result in zip(corpus.utterances, results, strict=True):
            typer.echo(f"{utterance.audio}\n  spoken      {utterance.text}\n  recognised  {result.text}")


@app.command("synthesize")
def synthesize_command(
    text: Annotated[Path, typer.Argument(help="Sentences, one a line.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the recordings and synthetic.jsonl.")],
    seed: int = 1,
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the lines.")] = 1,
    kokoro: Annotated[
        Path | None, typer.Option(help="Folder with Kokoro's .onnx and voices' .bin: it reads in place of the others.")
    ] = None,
) -> None:
    """Read sentences aloud with flite, espeak-ng and the neural voices that are installed, as training data."""
    from asr_training.synthesize import synthesize

    made = synthesize(text, out, seed=seed, processes=processes, voices=kokoro)
    typer.echo(f"{made} recordings in {out / 'synthetic.jsonl'}")


@app.command("prepare")
def prepare_command(
    data: Annotated[list[Path], typer.Argument(help="Manifests or LibriSpeech folders.")],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    size: Annotated[int, typer.Option(min=1, help="Utterances in a shard.")] = 1000,
    sample_rate: Annotated[int, typer.Option(min=1000, help="That of the recipes to come, hertz.")] = 16000,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the utterances.")] = 1,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without the data that are faulty.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the shards that OUT holds.")] = False,
) -> None:
    """Put recordings and texts into tar shards (WebDataset's layout), for training data larger than memory."""
    from asr_training.prepare import prepare

    options = {"size": size, "sample_rate": sample_rate, "seed": seed}
    utterances, shards, said = prepare(data, out, **options, skip_bad=skip_bad, force=force)
    if said:
        typer.echo(said, err=True)
    typer.echo(f"{utterances} utterances in {shards} shards in {out}")


@app.command("pronounce")
def pronounce_command(
    texts: Annotated[list[Path], typer.Argument(help="Manifests (.jsonl), or words.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="File for the words and their phonemes.")] = Path("pronunciations.txt"),
    language: Annotated[str, typer.Option(help="A voice of espeak-ng.")] = "en-us",
) -> None:
    """Write the phonemes of all words of texts, by espeak-ng, for a recipe's [data] pronunciations."""
    from asr_training.pronounce import pronounce

    typer.echo(f"{pronounce(texts, out, language)} words in {out}")


@app.command("vary")
def vary_command(
    manifest: Annotated[Path, typer.Argument(help="Manifest of recordings.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the new recordings and varied.jsonl.")],
    times: Annotated[int, typer.Option(min=1, help="How many new speakers for each recording.")] = 1,
    seed: int = 1,
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the recordings.")] = 1,
) -> None:
    """Say recordings again as other speakers (pitch, formants, colour, breath), as training data."""
    from asr_training.vocoder import vary

    typer.echo(
        f"{vary(manifest, out, times=times, seed=seed, processes=processes)} recordings in {out / 'varied.jsonl'}"
    )


@app.command("align")
def align_command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint or bundle, english say, which finds the words.", callback=trained)
    ],
    manifest: Annotated[Path, typer.Argument(help="Manifest of recordings.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="Manifest to write: the same lines, with cuts.", dir_okay=False)],
    pronunciations: Annotated[str, typer.Option(help="Of the words, for a model that learnt phonemes.")] = "",
) -> None:
    """Find where recordings can be cut between words, for `spliced` in a recipe's data."""
    from asr_training.align import align_manifest
    from asr_training.transfer import load_trained

    lines, pieces = align_manifest(load_trained(checkpoint), manifest, out, pronunciations=pronunciations)
    typer.echo(f"{pieces} pieces in {lines} recordings, in {out}")


@app.command("average")
def average_command(
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoint to write.")],
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Two or more, or bundles; what is given twice counts twice.")
    ],
) -> None:
    """Write the mean of checkpoints that began from the same weights: often better than each of them."""
    from asr_training.average import average

    average([trained(checkpoint) or checkpoint for checkpoint in checkpoints], out)
    typer.echo(f"the mean of {len(checkpoints)}, in {out}")


def main() -> None:
    """Run the command line; an error that a user can cause is one sentence, not a traceback."""
    try:
        app()
    except AsrError as error:
        sys.exit(f"asr-train: {error}")
    except OSError as error:
        where = error.filename or "a file"
        sys.exit(f"asr-train: {where} cannot be read or written ({error.strerror or error}); correct it or free space")
    except UnicodeError as error:
        sys.exit(f"asr-train: a file is not UTF-8 text ({error}); convert it")
    except ModuleNotFoundError as error:
        sys.exit(f"asr-train: the package {error.name} is missing; install with: pip install 'asr-deploy[train]'")


if __name__ == "__main__":
    main()
