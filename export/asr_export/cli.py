"""`asr-export`: checkpoints and texts to bundles, with proof."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from asr_runtime.errors import AsrError

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

BundlePath = Annotated[Path, typer.Argument(help="Bundle: a folder or, by its ending, an .asr file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


@app.command("to-onnx")
def to_onnx_command(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    bundle: BundlePath,
    name: Annotated[str | None, typer.Option(help="Name in the bundle.  [default: the recipe's]")] = None,
    language: Annotated[str, typer.Option(help="Language code in the bundle.")] = "en",
    licence: Annotated[str, typer.Option(help="Licence of the model in the bundle.")] = "not stated",
    lm: Annotated[Path | None, typer.Option(help="Language model to pack, see `asr-export lm`.")] = None,
    card: Annotated[Path | None, typer.Option(help="Text file that describes the model, to pack.")] = None,
    recording: Annotated[list[Path] | None, typer.Option(help="Recording to prove the graph on, too.")] = None,
    force: Force = False,
) -> None:
    """Write a checkpoint as a bundle with an ONNX model, if that proves equal to PyTorch."""
    from asr_export.to_onnx import to_onnx

    made, figures = to_onnx(
        checkpoint,
        bundle,
        name=name,
        language=language,
        licence=licence,
        language_model=lm,
        card=card,
        recordings=recording or [],
        force=force,
    )
    typer.echo(f"proved: {figures}.")
    typer.echo(f"{bundle}: {made.name}, {sum(file.bytes for file in made.files) / 1e6:.1f} MB")


def main() -> None:
    """Run `asr-export`; errors that a user can cause are one line and exit code 1, wrong usage is 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except AsrError as error:
        if debug:
            traceback.print_exc()
        print(f"asr-export: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
