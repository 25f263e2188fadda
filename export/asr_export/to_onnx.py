"""`asr-export to-onnx`: checkpoint in, proved bundle out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from asr_export.compact import PRECISIONS, rounded
from asr_export.graph import author
from asr_export.pack import MODEL_FILE, card_file, language_model_files, write_graph
from asr_export.proofs import Figures, Rounding, Samples, measure_rounding, prove
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle, Manifest
from asr_training.checkpoint import Checkpoint, load_checkpoint


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
    weights: str = "fp32",
    force: bool = False,
) -> tuple[Bundle, list[Figures | Rounding]]:
    """Author the graph of a checkpoint, prove it, and write it as a bundle; returns what the proofs measured, too.

    `weights` says how they are stored: fp32, fp16 or int8 (see `compact`).

    Raises RecipeError for the checkpoint, ExportError for the proof or the card, DecoderError for the language model,
    AudioError for a recording and BundleError for the bundle; then nothing is written.
    """
    checkpoint = load_checkpoint(checkpoint_folder)
    files = [card_file(card)] if card else []
    if language_model:
        files += language_model_files(language_model, checkpoint.alphabet.tokens)
    samples = [read_audio(path, checkpoint.features.sample_rate) for path in recordings]
    graph, proofs = proved(checkpoint, weights, samples)
    manifest = describe(checkpoint, proofs, name, language, licence)
    return write_graph(bundle, manifest, graph, PRECISIONS[weights], files, force=force), list(proofs.values())


def proved(
    checkpoint: Checkpoint, weights: str, recordings: Sequence[Samples]
) -> tuple[onnx.ModelProto, dict[str, Figures | Rounding]]:
    """The graph, equal to PyTorch with the weights that it stores, and what storing them changed."""
    model = checkpoint.model if weights == "fp32" else rounded(checkpoint.model, weights)
    graph = author(model, checkpoint.alphabet.tokens, weights)
    proofs: dict[str, Figures | Rounding] = {"log_probs": prove(graph, model, recordings)}
    if model is not checkpoint.model:
        proofs["rounding"] = measure_rounding(checkpoint.model, model, recordings)
    return graph, proofs


def describe(
    checkpoint: Checkpoint, proofs: Mapping[str, Figures | Rounding], name: str | None, language: str, licence: str
) -> Manifest:
    """What `bundle.json` says of the model."""
    provenance = without_folders(checkpoint.provenance)
    recipe = provenance.get("recipe")
    versions = {"asr-deploy": metadata.version("asr-deploy"), "onnx": onnx.__version__}
    return Manifest(
        name=name or (str(recipe.get("name", "model")) if isinstance(recipe, Mapping) else "model"),
        language=language,
        licence=licence,
        sample_rate=checkpoint.features.sample_rate,
        tokens=tuple(checkpoint.alphabet.tokens),
        frame_seconds=checkpoint.model.frame_seconds,
        provenance={**provenance, "export": versions},
        proofs={MODEL_FILE: {kind: proof.record() for kind, proof in proofs.items()}},
    )


def without_folders(value: Any) -> Any:
    """Provenance with file names only: where the data lay on the training machine is nobody's business."""
    if isinstance(value, Mapping):
        return {
            key: Path(item).name if key == "path" and isinstance(item, str) else without_folders(item)
            for key, item in value.items()
        }
    return [without_folders(item) for item in value] if isinstance(value, list | tuple) else value
