"""What every importer does with a graph that is proved: write it as a bundle that says where the model came from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from asr_export.pack import card_file, language_model_files
from asr_export.proofs import Figures
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a user says of a model that was trained elsewhere, and what goes into the bundle with it."""

    name: str = "model"
    language: str = "en"
    licence: str = "not stated"
    source: str = "not stated"  # where the model was published
    language_model: Path | None = None
    card: Path | None = None
    force: bool = False


def write_import(
    bundle: Path, graph: onnx.ModelProto, figures: Figures, imported: Imported, origin: Mapping[str, Any]
) -> Bundle:
    """Write a proved graph as a bundle; tokens and rates are those of its metadata, `origin` goes into provenance.

    Raises ExportError for the card, DecoderError for the language model and BundleError for the bundle.
    """
    said = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    files = [card_file(imported.card)] if imported.card else []
    if imported.language_model:
        files += language_model_files(imported.language_model, said["tokens"])
    manifest = Manifest(
        name=imported.name,
        language=imported.language,
        licence=imported.licence,
        sample_rate=said["sample_rate"],
        tokens=tuple(said["tokens"]),
        frame_seconds=said["frame_seconds"],
        provenance={
            "import": {"source": imported.source, **origin},
            "export": {"asr-deploy": metadata.version("asr-deploy"), "onnx": onnx.__version__},
        },
        proofs={MODEL_FILE: {"log_probs": figures.record()}},
    )
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, MODEL_FILE)
        file.write_bytes(graph.SerializeToString())
        model = NewFile(source=file, role="model", engine="onnx", precision="fp32")
        return write_bundle(bundle, manifest, [model, *files], force=imported.force)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
