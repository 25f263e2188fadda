"""`asr-export tune`: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr_export.arguments import KnownBundle


def tune_command(
    bundle: KnownBundle,
    manifest: Annotated[Path, typer.Argument(help="Recordings with text, which the model was not trained on.")],
    out: Annotated[Path | None, typer.Option(help="Write a new bundle with the settings here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the error rates over alpha and beta as an SVG.")] = None,
    beam_size: Annotated[list[int] | None, typer.Option(help="Try this beam size, too.", min=1)] = None,
    beam_threshold: Annotated[
        list[float] | None, typer.Option(help="Try keeping hypotheses up to this far below the best, too.")
    ] = None,
    token_floor: Annotated[
        list[float] | None, typer.Option(help="Try tokens down to this log-probability, too.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads that decode.", min=1)] = 1,
    force: Annotated[bool, typer.Option("--force", help="Write the settings into the bundle, or replace OUT.")] = False,
) -> None:
    """Find the beam search's alpha and beta for the fewest word errors, and honest confidences, for a bundle."""
    from asr_export.check import renew_check
    from asr_export.tune import surface, tune
    from asr_runtime.bundle import Bundle, NewFile, update_bundle, write_bundle
    from asr_runtime.errors import ExportError
    from asr_runtime.recognizer import BUNDLES

    for path in (out, picture):
        if path is not None and path.exists() and not force:
            raise ExportError(f"{path}: something lies here already; give another path, or --force to replace it.")
    if force and out is None and bundle.parent == BUNDLES:
        raise ExportError(f"{bundle.name}: this bundle belongs to the installation; give --out for one of your own.")
    loaded = Bundle.load(bundle)
    asked = {"beam_threshold": beam_threshold, "token_floor": token_floor, "beam_size": beam_size}
    tuned = tune(loaded, manifest, {name: values for name, values in asked.items() if values}, threads)
    best, before = tuned.best, tuned.points[0]
    low, high = (100 * rate for rate in tuned.interval)
    typer.echo(f"before: WER {100 * before.wer:.2f} % (alpha {before.alpha:g}, beta {before.beta:g})")
    typer.echo(
        f"best of {len(tuned.points)}: WER {100 * best.wer:.2f} % ({low:.1f}–{high:.1f}), alpha {best.alpha:g},"
        f" beta {best.beta:g}, beam {best.width.beam_size}, threshold {best.width.beam_threshold:g},"
        f" floor {best.width.token_floor:g}"
    )
    if picture:
        picture.write_text(surface(tuned), encoding="utf-8")
    if made := tuned.calibration:
        typer.echo(
            f"confidences: expected calibration error {made.before:.3f}, with scale {made.scale:g} and offset"
            f" {made.offset:g} {made.after:.3f} (on recordings left out of the fit)"
        )
    provenance = {"tune": tuned.record(manifest)}
    if out is not None:
        kept = ("role", "path", "engine", "precision", "target")
        files = [
            NewFile(source=loaded.path(file), **{name: getattr(file, name) for name in kept}) for file in loaded.files
        ]
        write_bundle(out, loaded, files, force=force)
    if out is not None or force:
        update_bundle(out or bundle, decoder=tuned.settings, provenance=provenance)
        renew_check(out or bundle)
        typer.echo(f"written into {out or bundle}")
    else:
        typer.echo(f"nothing is written; --force writes these settings into {bundle}, --out into a new bundle")
