"""`asr-export`: checkpoints and texts to bundles, with proof."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer
except ModuleNotFoundError:  # the runtime is installed alone
    sys.exit("asr-export: typer is missing; install it with: pip install 'asr-deploy[export]'")

from asr_export.arguments import BundlePath, Force, KnownBundle
from asr_export.cli_deploy import doctor_command, to_tensorrt_command, to_triton_command
from asr_export.cli_tune import tune_command
from asr_runtime.bundle import refuse_overwrite
from asr_runtime.errors import AsrError, ExportError, sentence

if TYPE_CHECKING:
    from asr_export.proofs import Figures
    from asr_runtime.bundle import Bundle

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("to-onnx")
def to_onnx_command(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    bundle: BundlePath,
    name: Annotated[str | None, typer.Option(help="Name in the bundle.  [default: the recipe's]")] = None,
    language: Annotated[str, typer.Option(help="Language code in the bundle.")] = "en",
    licence: Annotated[str, typer.Option(help="Licence of the model in the bundle.")] = "not stated",
    lm: Annotated[Path | None, typer.Option(help="Language model to pack, see `asr-export lm`.")] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="Words to pack, one a line; of a model of phonemes their pronunciations.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Text file that describes the model, to pack.")] = None,
    recording: Annotated[list[Path] | None, typer.Option(help="Recording to prove the graph on, too.")] = None,
    weights: Annotated[str, typer.Option(help="How weights are stored: fp32, fp16 or int8.")] = "fp32",
    precision: Annotated[
        str, typer.Option(help="What the encoder computes in: fp32; fp16 for GPUs or int8 for CPUs, added to it.")
    ] = "fp32",
    force: Force = False,
) -> None:
    """Write a checkpoint as a bundle with an ONNX model, if that proves equal to PyTorch."""
    from asr_export.compact import PRECISIONS
    from asr_export.to_onnx import MODEL_FILES, to_onnx

    if weights not in PRECISIONS:
        raise typer.BadParameter(f"{weights!r} is none of {', '.join(PRECISIONS)}", param_hint="--weights")
    if precision not in MODEL_FILES:
        raise typer.BadParameter(f"{precision!r} is none of {', '.join(MODEL_FILES)}", param_hint="--precision")
    if precision != "fp32" and weights not in ("fp32", precision):
        raise typer.BadParameter(f"a model of --precision {precision} has its weights in it", param_hint="--weights")
    made, proofs = to_onnx(
        checkpoint,
        bundle,
        name=name,
        language=language,
        licence=licence,
        language_model=lm,
        lexicon=lexicon,
        card=card,
        recordings=recording or [],
        weights=weights,
        arithmetic=precision,
        force=force,
    )
    for proof in proofs:
        typer.echo(f"proved: {proof}.")
    typer.echo(f"{bundle}: {made.name}, {sum(file.bytes for file in made.files) / 1e6:.1f} MB")


app.command("to-tensorrt")(to_tensorrt_command)
app.command("to-triton")(to_triton_command)
app.command("tune")(tune_command)
app.command("doctor")(doctor_command)


Language = Annotated[str, typer.Option(help="Language code in the bundle.")]
Licence = Annotated[str, typer.Option(help="Licence of the model in the bundle.")]
Origin = Annotated[str, typer.Option("--source", help="Where the model was published, for the bundle.")]
LanguageModel = Annotated[Path | None, typer.Option("--lm", help="Language model to pack, see `asr-export lm`.")]
Card = Annotated[Path | None, typer.Option("--card", help="Text file that describes the model, to pack.")]


@app.command("import-seed")
def import_seed_command(
    weights: Annotated[Path, typer.Argument(help="Published weights, like weights.pth.")],
    bundle: BundlePath,
    recurrence: Annotated[str | None, typer.Option(help="How the later GRUs run: time or published.")] = None,
    name: Annotated[str, typer.Option(help="Name in the bundle.")] = "seed",
    language: Language = "en",
    licence: Licence = "not stated",
    source: Origin = "not stated",
    lm: LanguageModel = None,
    card: Card = None,
    force: Force = False,
) -> None:
    """Write published weights of seed-audio-recognition or seed-librispeech as a bundle, proved equal to PyTorch."""
    from asr_export.importers.packing import Imported
    from asr_export.importers.seed import import_seed

    refuse_overwrite(bundle, force)
    imported = Imported(
        name=name, language=language, licence=licence, source=source, language_model=lm, card=card, force=force
    )
    report(bundle, *import_seed(weights, bundle, recurrence, imported))


@app.command("import-onnx")
def import_onnx_command(
    model: Annotated[str, typer.Argument(help="ONNX file, its folder, or a hub's OWNER/NAME or OWNER/NAME/FILE.")],
    bundle: BundlePath,
    tokens: Annotated[Path | None, typer.Option(help="Tokens.  [default: vocab.txt or tokens.txt beside it]")] = None,
    window_seconds: Annotated[float | None, typer.Option(help="Window.  [default: 0.025; 0.02 with 64 bands]")] = None,
    normalise: Annotated[str | None, typer.Option(help="per_feature or none.  [default: the model's]")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the bundle.  [default: the folder's]")] = None,
    language: Language = "en",
    licence: Annotated[str | None, typer.Option(help="The model's licence.  [default: its README's]")] = None,
    source: Annotated[str | None, typer.Option(help="Where it was published.  [default: the hub's id]")] = None,
    lm: LanguageModel = None,
    card: Card = None,
    force: Force = False,
) -> None:
    """Write a CTC model of NeMo as a bundle: a file or folder as onnx-asr and sherpa-onnx read them."""
    from asr_export.importers.hub import local
    from asr_export.importers.onnx import Options, import_onnx
    from asr_export.importers.packing import Imported

    refuse_overwrite(bundle, force)  # the hub is slow
    with local(model, ("model.onnx",), ("vocab.txt", "tokens.txt", "config.json")) as found:
        imported = Imported(
            name=name or found.name,
            language=language,
            licence=licence or found.licence,
            source=source or found.source,
            language_model=lm,
            card=card,
            force=force,
        )
        report(bundle, *import_onnx(found.path, bundle, Options(tokens, window_seconds, normalise), imported))


@app.command("import-huggingface")
def import_huggingface_command(
    model: Annotated[str, typer.Argument(help="Folder as transformers saves models, or a hub's OWNER/NAME.")],
    bundle: BundlePath,
    name: Annotated[str | None, typer.Option(help="Name in the bundle.  [default: the folder's]")] = None,
    language: Language = "en",
    licence: Annotated[str | None, typer.Option(help="The model's licence.  [default: its README's]")] = None,
    source: Annotated[str | None, typer.Option(help="Where it was published.  [default: the hub's id]")] = None,
    lm: LanguageModel = None,
    card: Card = None,
    force: Force = False,
) -> None:
    """Write a CTC model of transformers (Wav2Vec2, HuBERT, WavLM) as a bundle, proved equal to PyTorch."""
    from asr_export.importers.hub import local
    from asr_export.importers.huggingface import FILES, MORE_FILES, import_huggingface
    from asr_export.importers.packing import Imported

    refuse_overwrite(bundle, force)  # the hub is slow
    with local(model, FILES, MORE_FILES) as found:
        imported = Imported(
            name=name or found.name,
            language=language,
            licence=licence or found.licence,
            source=source or found.source,
            language_model=lm,
            card=card,
            force=force,
        )
        report(bundle, *import_huggingface(found.path, bundle, imported))


def report(path: Path, bundle: Bundle, proof: Figures) -> None:
    """Say what was proved and written."""
    typer.echo(f"proved: {proof}.")
    typer.echo(f"{path}: {bundle.name}, {sum(file.bytes for file in bundle.files) / 1e6:.1f} MB")


@app.command("lm")
def lm_command(
    text: Annotated[list[Path], typer.Argument(help="Text, one sentence a line: plain, .gz or .xz.")],
    out: Annotated[Path, typer.Argument(help="The model's file, like lm.binary.")],
    order: Annotated[int, typer.Option(help="Longest n-grams, in words.")] = 4,
    prune: Annotated[str, typer.Option(help="Drop n-grams of each order seen this often or less.")] = "0 1 3 6",
    vocabulary_minimum: Annotated[int, typer.Option(min=1, help="Words seen less often count as unknown.")] = 5,
    alphabet: Annotated[str | None, typer.Option(help="Refuse words with other characters.")] = None,
    discount_fallback: Annotated[bool, typer.Option("--discount-fallback", help="For very small texts.")] = False,
    memory: Annotated[str, typer.Option(help="For sorting, like 40% or 3G.")] = "40%",
    force: Force = False,
) -> None:
    """Estimate a pruned n-gram language model and write it as a quantised KenLM trie."""
    from asr_export.language_model import Settings, build_language_model

    if not all(count.isdecimal() for count in prune.split()):
        raise typer.BadParameter(f"{prune!r} is not a list of counts like '0 1 3 6'", param_hint="--prune")
    counts = tuple(int(count) for count in prune.split())
    settings = Settings(order, counts, vocabulary_minimum, alphabet, discount_fallback, memory)
    build_language_model(text, out, settings, force=force, report=lambda line: typer.echo(line, err=True))
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command("add-lm")
def add_lm_command(
    bundle: BundlePath,
    lm: Annotated[Path, typer.Argument(help="KenLM binary or ARPA file.")],
    lexicon: Annotated[
        Path | None, typer.Option(help="Word list in place of the language model's words, or pronunciations.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept per frame.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the language model.")] = None,
    beta: Annotated[float | None, typer.Option(help="Bonus per word.")] = None,
    force: Force = False,
) -> None:
    """Put a language model into a bundle, with the decoder settings that go with it."""
    from asr_export.pack import add_language_model

    given = {"beam_size": beam_size, "alpha": alpha, "beta": beta}
    decoder = {name: value for name, value in given.items() if value is not None}
    made = add_language_model(bundle, lm, lexicon=lexicon, decoder=decoder, force=force)
    typer.echo(f"{bundle}: {made.name}, {sum(file.bytes for file in made.files) / 1e6:.1f} MB")


@app.command("add-lexicon")
def add_lexicon_command(
    bundle: BundlePath,
    lexicon: Annotated[Path, typer.Argument(help="Words, one a line; or word, tab and its tokens, like phonemes.")],
    force: Force = False,
) -> None:
    """Put a lexicon into a bundle: the words that it may write, and where tokens are phonemes, how they sound."""
    from asr_export.pack import add_lexicon

    made = add_lexicon(bundle, lexicon, force=force)
    typer.echo(f"{bundle}: {made.name}, {sum(file.bytes for file in made.files) / 1e6:.1f} MB")


@app.command("add-check")
def add_check_command(
    bundle: BundlePath,
    recording: Annotated[list[Path], typer.Argument(help="Recordings, of which the first 8 seconds are packed.")],
) -> None:
    """Pack recordings and what the bundle makes of them, for `asr-run --verify` on other machines."""
    from asr_export.check import add_check
    from asr_runtime.audio import read_audio
    from asr_runtime.bundle import Bundle

    rate = Bundle.load(bundle).sample_rate
    made = add_check(bundle, [read_audio(path, rate) for path in recording])
    typer.echo(f"{bundle}: {made.name}, {sum(file.bytes for file in made.files) / 1e6:.1f} MB")


@app.command("verify")
def verify_command(
    bundle: KnownBundle,
    against: Annotated[
        Path | None,
        typer.Option(help="Checkpoint that it was made from, or what was imported.  [default: the check it carries]"),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Recordings with text, to compare texts, too.")] = None,
) -> None:
    """Compare a bundle with its checkpoint again: log-probabilities, texts, word error rate.

    Without a checkpoint the check that the bundle carries is replayed, as `asr-run --verify` does.

    Exit codes: 0 all model files passed, 1 one did not; with --against also 3: those passed that can run here.
    """
    if against is None:
        if manifest:
            raise typer.BadParameter("texts are compared with a checkpoint's; give --against", param_hint="--manifest")
        replay(bundle)
        return
    from asr_export.engine_proof import NotVerified
    from asr_export.verify import Verified, table, verify

    results = verify(bundle, against, manifest)
    typer.echo("\n".join(table(results)))
    for each in results:
        if isinstance(each, NotVerified):
            typer.echo(each)
            continue
        typer.echo(f"{each.file.path} ({each.file.precision}) log_probs: {each.log_probs}")
        for name, texts in each.texts.items():
            typer.echo(f"{each.file.path} ({each.file.precision}) {name}: {texts}")
            for recording in texts.changed:
                typer.echo(f"  other text: {recording}")
    failed = [each for each in results if isinstance(each, Verified) and not each.passed]
    if failed:
        raise ExportError(f"{failed[0].file.path} is not what {against} computes: {failed[0].log_probs}.")
    if any(isinstance(each, NotVerified) for each in results):
        raise typer.Exit(3)


def replay(bundle: Path) -> None:
    """Say what a bundle's own check gives here; exit code 1 unless it passes."""
    from asr_runtime.bundle import Bundle
    from asr_runtime.verify import all_passed, verify

    if not all_passed(verify(Bundle.load(bundle)), typer.echo):
        raise typer.Exit(1)


@app.command("inspect")
def inspect_command(
    bundle: KnownBundle, as_json: Annotated[bool, typer.Option("--json", help="All that is in it.")] = False
) -> None:
    """Show a bundle: sizes, tokens, language model, decoder settings, word error rate, licence."""
    from asr_export.inspect import everything, summary

    if as_json:
        typer.echo(json.dumps(everything(bundle), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(summary(bundle)))


def main() -> None:
    """Run `asr-export`; errors that a user can cause are one line and exit code 1, wrong usage is 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except (AsrError, OSError, UnicodeError, ModuleNotFoundError) as error:
        if debug:
            traceback.print_exc()
        print("asr-export:", error if isinstance(error, AsrError) else sentence(error, "export"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
