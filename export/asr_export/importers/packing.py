"""What every importer does with a graph that is proved: write it as a bundle that says where the model came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from asr_export.check import add_check
from asr_export.importers.files import first_line
from asr_export.pack import card_file, language_model_file
from asr_export.proofs import INTEGER_TOLERANCE, TOLERANCE, Figures, Recogniser, Session, measure, refuse_too_large
from asr_export.signals import spoken
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle
from asr_runtime.errors import ExportError

MODEL_FILE = "model.onnx"
# Operators that round activations to 8 bits, mostly by a scale that is found in the batch at hand. MatMulNBits is
# another where its accuracy_level is 4; else only its weights have few bits.
ROUNDS = {
    "ConvInteger",
    "DynamicQuantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
OnnxRuntimeError = (Fail, InvalidArgument, RuntimeException)


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
    bundle: Path,
    graph: onnx.ModelProto,
    figures: Figures,
    imported: Imported,
    origin: Mapping[str, Any],
    *,
    padding: bool = True,
) -> Bundle:
    """Write a proved graph as a bundle; tokens and rates are those of its metadata, `origin` goes into provenance.

    Raises ExportError for the card, DecoderError for the language model and BundleError for the bundle.
    """
    said = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    files = [card_file(imported.card)] if imported.card else []
    if imported.language_model:
        files.append(language_model_file(imported.language_model, said["tokens"]))
    manifest = Manifest(
        name=imported.name,
        language=imported.language,
        licence=imported.licence,
        sample_rate=said["sample_rate"],
        tokens=tuple(said["tokens"]),
        frame_seconds=said["frame_seconds"],
        padding=padding,
        provenance={
            "import": {"source": imported.source, **origin},
            "export": {"asr-deploy": metadata.version("asr-deploy"), "onnx": onnx.__version__},
        },
        proofs={MODEL_FILE: {"log_probs": figures.record()}},
    )
    with tempfile.TemporaryDirectory(prefix="asr-export-") as work:
        file = Path(work, MODEL_FILE)
        file.write_bytes(graph.SerializeToString())
        precision = "int8" if rounds_activations(graph) else "fp32"
        model = NewFile(source=file, role="model", engine="onnx", precision=precision)
        write_bundle(bundle, manifest, [model, *files], force=imported.force)
    return add_check(bundle, spoken(manifest.sample_rate))


def prove_import(
    graph: onnx.ModelProto, original: Recogniser, name: str, *, padding: bool = True, noise: float = 0.0
) -> tuple[Figures, bool]:
    """Check a graph with nodes of others against its original, and find out whether it can be padded.

    Without `padding` it is not even tried, and neither with 8-bit arithmetic, of which the best tokens are compared:
    what leaks could not be told from what rounds. `noise` is the deviation of what is added to the proof's signals.
    Raises ExportError where the graph is not the original even in batches of one length.
    """
    rounds = rounds_activations(graph)
    refuse_too_large(graph)
    try:
        onnx.checker.check_model(graph)
        session = Session(graph.SerializeToString())
    except Exception as error:  # the checker, protobuf and ONNX Runtime have errors of many kinds
        raise ExportError(f"the graph cannot be loaded ({first_line(error)}); nothing was written.") from None
    for padded in (True, False) if padding and not rounds else (False,):
        try:
            tolerance = INTEGER_TOLERANCE if rounds else TOLERANCE
            figures = measure(session, original, tolerance=tolerance, padding=padded, noise=noise)
        except OnnxRuntimeError as error:
            raise ExportError(
                f"the graph cannot be run in batches ({first_line(error)}); nothing was written."
            ) from None
        figures = dataclasses.replace(figures, original=name)
        if figures.within_tolerance:
            return figures, padded
    raise ExportError(f"the exported graph failed its proof, so nothing was written: {figures}.")


def rounds_activations(graph: onnx.ModelProto) -> bool:
    """Whether results jump with rounding, so that only the best tokens can be compared."""
    nodes = all_nodes(chain(graph.graph.node, *(function.node for function in graph.functions)))
    return any(node.op_type in ROUNDS or rounds_beside_its_weights(node) for node in nodes)


def rounds_beside_its_weights(node: onnx.NodeProto) -> bool:
    """Whether a node is a product with weights of few bits that rounds the other factor to 8 bits."""
    levels = [attribute.i for attribute in node.attribute if attribute.name == "accuracy_level"]
    return node.op_type == "MatMulNBits" and levels == [4]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs inside them: branches and loop bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner.node)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
