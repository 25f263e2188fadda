"""`asr-export to-onnx`: checkpoint in, proved bundle out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from asr_export.graph import author
from asr_export.pack import card_file, language_model_files
from asr_export.proofs import Figures, prove
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle
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

    Raises RecipeError for the checkpoint, ExportError for the proof or the card, DecoderError for the language model,
    AudioError for a recording and BundleError for the bundle; then nothing is written.
    """
    checkpoint = load_checkpoint(checkpoint_folder)
    files = [card_file(card)] if card else []
    if language_model:
        files += language_model_files(language_model, checkpoint.alphabet.tokens)
    graph = author(checkpoint.model, checkpoint.alphabet.tokens)
    samples = [np.asarray(read_audio(path, checkpoint.features.sample_rate)) for path in recordings]
    figures = prove(graph, checkpoint.model, samples)
    manifest = describe(checkpoint, figures, name, language, licence)
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, MODEL_FILE)
        file.write_bytes(graph.SerializeToString())
        model = NewFile(source=file, role="model", engine="onnx", precision="fp32")
        return write_bundle(bundle, manifest, [model, *files], force=force), figures


def describe(checkpoint: Checkpoint, figures: Figures, name: str | None, language: str, licence: str) -> Manifest:
    """What `bundle.json` says of the model."""
    provenance = without_folders(checkpoint.provenance)
    recipe = provenance.get("recipe", {})
    versions = {"asr-deploy": metadata.version("asr-deploy"), "onnx": onnx.__version__}
    return Manifest(
        name=name or str(recipe.get("name", "model")),
        language=language,
        licence=licence,
        sample_rate=checkpoint.features.sample_rate,
        tokens=tuple(checkpoint.alphabet.tokens),
        frame_seconds=checkpoint.model.frame_seconds,
        provenance={**provenance, "export": versions},
        proofs={MODEL_FILE: {"log_probs": figures.record()}},
    )


def without_folders(value: Any) -> Any:
    """Provenance with file names only: where the data lay on the training machine is nobody's business."""
    if isinstance(value, Mapping):
        return {
            key: Path(item).name if key == "path" and isinstance(item, str) else without_folders(item)
            for key, item in value.items()
        }
    return [without_folders(item) for item in value] if isinstance(value, list | tuple) else value
