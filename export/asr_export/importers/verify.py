"""`asr-export verify` of an imported bundle: the original once more, against each of the bundle's ONNX models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asr_export.proofs import HALF_TOLERANCE, TOLERANCE, Figures, Recogniser, measure
from asr_runtime.bundle import Bundle, BundleFile, update_bundle
from asr_runtime.engines import choose
from asr_runtime.errors import ExportError


def verify_import(path: Path, bundle: Bundle, against: Path) -> list[tuple[BundleFile, Figures]]:
    """Measure an imported bundle against what it was made from; the figures go into its proofs.

    Raises ExportError if log-probabilities differ by more than the tolerance: then the bundle is left as it is.
    """
    original, name, noise = original_of(bundle, against)
    results = []
    for file in (file for file in bundle.files if file.engine == "onnx"):
        engine = choose(bundle, "cpu", precision=file.precision)
        tolerance = HALF_TOLERANCE if file.precision == "fp16" else TOLERANCE
        measured = measure(engine, original, tolerance=tolerance, padding=bundle.padding, noise=noise)
        results.append((file, dataclasses.replace(measured, original=name)))
    for file, figures in results:
        if not figures.within_tolerance:
            raise ExportError(f"{file.path} is not what {against} computes: {figures}.")
    proofs = {file.path: {**bundle.proofs.get(file.path, {}), "log_probs": found.record()} for file, found in results}
    update_bundle(path, proofs=proofs)
    return results


def original_of(bundle: Bundle, against: Path) -> tuple[Recogniser, str, float]:
    """The recogniser that an importer made the bundle from, its name in figures, and the noise of its proof."""
    origin = bundle.provenance["import"]
    kind = origin.get("kind") if isinstance(origin, dict) else None
    if kind == "seed":
        from asr_export.importers.seed import seed_model

        return seed_model(against, origin.get("recurrence")), "PyTorch", 0.0
    if kind == "onnx":
        from asr_export.importers import onnx

        options = onnx.Options(None, origin.get("window_seconds"), origin.get("normalise"))
        file = against / onnx.MODEL_FILE if against.is_dir() else against
        return onnx.read_original(file, options)[1], "the ONNX file", onnx.NOISE
    if kind == "huggingface":
        from asr_export.importers.huggingface import HuggingFaceOriginal, read_json

        return HuggingFaceOriginal(against, read_json(against / "config.json")).eval(), "PyTorch", 0.0
    raise ExportError(
        f"{bundle.name} was imported as {kind!r:.80}, which this asr-deploy cannot verify; import it again."
    )
