"""Arguments that several commands of `asr-export` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def found(bundle: Path | None) -> Path | None:
    """Where a bundle lies that is given by its path, or by its name if it comes along; raises BundleError."""
    from asr_runtime.recognizer import place

    return None if bundle is None else place(bundle)


BundlePath = Annotated[Path, typer.Argument(help="Bundle: a folder or, by its ending, an .asr file.")]
# For what only reads it.
KNOWN = typer.Argument(help="Bundle: a folder, an .asr file, or english, which comes along.", callback=found)
KnownBundle = Annotated[Path, KNOWN]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
