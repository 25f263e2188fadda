"""`asr-export to-onnx`: checkpoint in, proved bundle out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from asr_export.check import add_check, renew_check
from asr_export.compact import PRECISIONS, rounded
from asr_export.graph import author
from asr_export.pack import card_file, words_files
from asr_export.proofs import Figures, Rounding, measure_rounding, prove, prove_integers
from asr_export.signals import Samples, spoken
from asr_runtime.audio import read_audio
from asr_runtime.bundle import (
    Bundle,
    Manifest,
    NewFile,
    refuse_overwrite,
    replaced_files,
    update_bundle,
    write_bundle,
)
from asr_runtime.errors import ExportError
from asr_training.checkpoint import Checkpoint, load_checkpoint
from asr_training.model import CRNNEncoder

LEAST_RECURRENT_SIZE = 512  # of a GRU that 8-bit arithmetic makes faster
# by the encoder's arithmetic
MODEL_FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


def to_onnx(
    checkpoint_folder: Path,
    bundle: Path,
    *,
    name: str | None = None,
    language: str = "en",
    licence: str = "not stated",
    language_model: Path | None = None,
    lexicon: Path | None = None,
    card: Path | None = None,
    recordings: Sequence[Path] = (),
    weights: str = "fp32",
    arithmetic: str = "fp32",
    force: bool = False,
) -> tuple[Bundle, list[Figures | Rounding]]:
    """Author the graph of a checkpoint, prove it, and write it as a bundle; returns what the proofs measured, too.

    `weights` says how they are stored: fp32, fp16 or int8 (see `compact`). With `arithmetic` fp16 or int8 the
    weights have that type, too, and the model joins the bundle that lies there, if one does; else it makes one alone.

    Raises RecipeError for the checkpoint, ExportError for the proof or the card, DecoderError for the language model
    or the lexicon, AudioError for a recording and BundleError for the bundle; then nothing is written.
    """
    joins = arithmetic != "fp32" and bundle.exists()
    if not joins:
        refuse_overwrite(bundle, force)
    checkpoint = load_checkpoint(checkpoint_folder)
    files = [card_file(card)] if card else []
    files += words_files(language_model, lexicon, checkpoint.alphabet.tokens)
    samples = [read_audio(path, checkpoint.features.sample_rate) for path in recordings]
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, MODEL_FILES[arithmetic])
        precision = PRECISIONS[weights] if arithmetic == "fp32" else arithmetic
        files = [NewFile(source=file, role="model", engine="onnx", precision=precision), *files]
        if joins:
            there = Bundle.load(bundle)
            refuse_other_model(bundle, there, checkpoint)
            replaced_files(bundle, there, files, force)
        graph, proofs = proved(checkpoint, weights, samples, arithmetic)
        manifest = describe(checkpoint, {MODEL_FILES[arithmetic]: proofs}, name, language, licence)
        file.write_bytes(graph.SerializeToString())
        if joins:
            update_bundle(bundle, files, force=force, proofs=manifest.proofs)
        else:
            write_bundle(bundle, manifest, files, force=force)
    if joins and not samples:
        return renew_check(bundle), list(proofs.values())
    return add_check(bundle, samples or spoken(checkpoint.features.sample_rate)), list(proofs.values())


def refuse_other_model(path: Path, there: Bundle, checkpoint: Checkpoint) -> None:
    """Raise ExportError unless the bundle at `path` has the tokens, rate and frames of the checkpoint."""
    ours = (tuple(checkpoint.alphabet.tokens), checkpoint.features.sample_rate, checkpoint.model.frame_seconds)
    if (there.tokens, there.sample_rate, there.frame_seconds) != ours:
        raise ExportError(f"{path}: the bundle that lies here is of another model; give the bundle of the checkpoint.")


def proved(
    checkpoint: Checkpoint, weights: str, recordings: Sequence[Samples], arithmetic: str = "fp32"
) -> tuple[onnx.ModelProto, dict[str, Figures | Rounding]]:
    """The graph, equal to PyTorch with the weights that it stores, and what storing them changed."""
    if arithmetic == "int8":
        encoder = checkpoint.model.encoder
        if isinstance(encoder, CRNNEncoder) and encoder.config.recurrent_size < LEAST_RECURRENT_SIZE:
            raise ExportError(
                f"8-bit arithmetic makes recurrent layers faster from {LEAST_RECURRENT_SIZE} units on, and these have "
                f"{encoder.config.recurrent_size}; give --precision fp32 or fp16."
            )
        eight = author(checkpoint.model, checkpoint.alphabet.tokens, arithmetic=arithmetic)
        return eight, {"rounding": prove_integers(eight, checkpoint.model, recordings)}
    if arithmetic == "fp16":
        half = author(checkpoint.model, checkpoint.alphabet.tokens, arithmetic=arithmetic)
        return half, {"log_probs": prove(half, checkpoint.model, recordings)}
    model = checkpoint.model if weights == "fp32" else rounded(checkpoint.model, weights)
    graph = author(model, checkpoint.alphabet.tokens, weights)
    proofs: dict[str, Figures | Rounding] = {"log_probs": prove(graph, model, recordings)}
    if model is not checkpoint.model:
        proofs["rounding"] = measure_rounding(checkpoint.model, model, recordings)
    return graph, proofs


def describe(
    checkpoint: Checkpoint,
    proofs: Mapping[str, Mapping[str, Figures | Rounding]],
    name: str | None,
    language: str,
    licence: str,
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
        proofs={file: {kind: proof.record() for kind, proof in kinds.items()} for file, kinds in proofs.items()},
    )


def without_folders(value: Any) -> Any:
    """Provenance with file names only: where the data lay on the training machine is nobody's business."""
    if isinstance(value, Mapping):
        return {
            key: Path(item).name if key == "path" and isinstance(item, str) else without_folders(item)
            for key, item in value.items()
        }
    return [without_folders(item) for item in value] if isinstance(value, list | tuple) else value
