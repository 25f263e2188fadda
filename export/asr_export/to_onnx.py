"""`asr-export to-onnx`: checkpoint in, proved bundle out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

from asr_export.graph import author
from asr_export.language_model import check_language_model
from asr_export.proofs import Figures, prove
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle
from asr_runtime.errors import ExportError
from asr_training.checkpoint import Checkpoint, load_checkpoint

MODEL_FILE = "model.onnx"


def to_onnx(
    checkpoint_folder: Path,
    bundle: Path,
    *,
    name: str | None = None,
    language: str = "en",
    licence: str = "not stated",
    language_model: Path | None = None,
    card: Path | None = None,
    recordings: Sequence[Path] = (),
    force: bool = False,
) -> tuple[Bundle, Figures]:
    """Author the graph of a checkpoint, prove it, and write it as a bundle.

    Raises RecipeError for the checkpoint, ExportError for the proof or a file to pack, AudioError for a recording and
    BundleError for the bundle; then nothing is written.
    """
    extra = packed(language_model, card)
    checkpoint = load_checkpoint(checkpoint_folder)
    graph = author(checkpoint.model, checkpoint.alphabet.tokens)
    samples = [np.asarray(read_audio(path, checkpoint.features.sample_rate)) for path in recordings]
    figures = prove(graph, checkpoint.model, samples)
    manifest = describe(checkpoint, figures, name, language, licence)
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, MODEL_FILE)
        file.write_bytes(graph.SerializeToString())
        model = NewFile(source=file, role="model", engine="onnx", precision="fp32")
        return write_bundle(bundle, manifest, [model, *extra], force=force), figures


def packed(language_model: Path | None, card: Path | None) -> list[NewFile]:
    """The files that go into the bundle beside the model."""
    files = []
    if language_model is not None:
        check_language_model(language_model)
        files.append(NewFile(source=language_model, role="language_model", path="lm.binary"))
    if card is not None:
        if not card.is_file():
            raise ExportError(f"{card}: there is no such file; give the text that describes the model.")
        files.append(NewFile(source=card, role="card", path="card.md"))
    return files


def describe(checkpoint: Checkpoint, figures: Figures, name: str | None, language: str, licence: str) -> Manifest:
    """What `bundle.json` says of the model."""
    recipe = checkpoint.provenance.get("recipe", {})
    versions = {"asr-deploy": metadata.version("asr-deploy"), "onnx": onnx.__version__}
    return Manifest(
        name=name or str(recipe.get("name", "model")),
        language=language,
        licence=licence,
        sample_rate=checkpoint.features.sample_rate,
        tokens=tuple(checkpoint.alphabet.tokens),
        frame_seconds=checkpoint.model.frame_seconds,
        provenance={**checkpoint.provenance, "export": versions},
        proofs={MODEL_FILE: {"log_probs": figures.record()}},
    )
