"""What an imported bundle was made from, once more: what `asr-export verify` measures it against."""

from __future__ import annotations

from pathlib import Path

from asr_export.proofs import Recogniser
from asr_runtime.bundle import Bundle
from asr_runtime.errors import ExportError


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
        from asr_export.importers.files import read_json
        from asr_export.importers.huggingface import HuggingFaceOriginal

        return HuggingFaceOriginal(against, read_json(against / "config.json")).eval(), "PyTorch", 0.0
    raise ExportError(
        f"{bundle.name} was imported as {kind!r:.80}, which this asr-deploy cannot verify; import it again."
    )
