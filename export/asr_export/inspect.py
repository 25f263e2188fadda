"""`asr-export inspect`: a bundle at a glance, or all that is in it. Needs neither PyTorch nor an engine."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_runtime.bundle import Bundle, BundleFile
from asr_runtime.manifest import FORMAT, Manifest

if TYPE_CHECKING:
    import onnx

LABEL = 16  # characters of the left column
ROLES = {"model": "model", "language_model": "language model", "lexicon": "lexicon"}


def summary(path: Path) -> Iterator[str]:
    """The lines that say what the bundle at `path` is; raises BundleError."""
    bundle = Bundle.load(path)
    yield line("bundle", f"{bundle.name} ({bundle.language}), licence {bundle.licence}")
    yield line("size", f"{megabytes(sum(file.bytes for file in bundle.files))} in {len(bundle.files)} files")
    for role, name in ROLES.items():
        for file in (file for file in bundle.files if file.role == role):
            kind = ", ".join(filter(None, [file.engine, file.precision, pairs(file.target)]))
            yield line(name, f"{file.path}, {megabytes(file.bytes)}" + (f" ({kind})" if kind else ""))
    yield line("tokens", f"{len(bundle.tokens)}: {shown(bundle.tokens)}")
    batches = "" if bundle.padding else ", no padding: batches of one length"
    yield line("audio", f"{bundle.sample_rate} Hz, {1000 * bundle.frame_seconds:g} ms a frame{batches}")
    yield line("decoder", pairs(bundle.decoder) or "its defaults")
    yield from error_rate(bundle.provenance.get("tune"))
    yield from origin(bundle.provenance)
    yield line("more", "with --json: graphs, proofs, and how it was trained")


def error_rate(tuned: Any) -> Iterator[str]:
    """What `asr-export tune` left of the word error rate in the provenance, where programs may put anything."""
    if not isinstance(tuned, Mapping) or not isinstance(rate := tuned.get("wer"), float):
        return
    known = (f"{tuned[key]} {key}" for key in ("utterances", "words") if key in tuned)
    where = ", ".join([str(tuned.get("manifest", "a manifest")), *known])
    yield line("word errors", f"{100 * rate:.1f} % ({where}), where its settings were chosen")


def origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """The recipe or the place that the model comes from."""
    for label, key, name in (("recipe", "recipe", "name"), ("imported from", "import", "source")):
        value = provenance.get(key)
        told = value.get(name) if isinstance(value, Mapping) else value
        if isinstance(told, str):
            yield line(label, told)


def everything(path: Path) -> dict[str, Any]:
    """All that the bundle's manifest says, and `graphs`, what its ONNX models are made of; for `json.dumps`.

    Raises BundleError and ExportError.
    """
    bundle = Bundle.load(path)
    said = {field.name: getattr(bundle, field.name) for field in fields(Manifest)}
    graphs = {file.path: described(bundle, file) for file in bundle.files if file.engine == "onnx"}
    return {"format": FORMAT, **said, "files": [asdict(file) for file in bundle.files], "graphs": graphs}


def described(bundle: Bundle, file: BundleFile) -> dict[str, Any]:
    """Weights by type, opsets, inputs, outputs and operators of an ONNX model."""
    from onnx import TensorProto

    from asr_export.importers.files import read_graph

    model = read_graph(bundle.path(file))
    graph = model.graph
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        weights[TensorProto.DataType.Name(tensor.data_type).lower()] += math.prod(tensor.dims)
    return {
        "weights": dict(weights.most_common()),
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "producer": model.producer_name,
        "inputs": [signature(value) for value in graph.input],
        "outputs": [signature(value) for value in graph.output],
        "nodes": dict(Counter(node.op_type for node in graph.node).most_common()),
    }


def signature(value: onnx.ValueInfoProto) -> str:
    """Name, type and shape of an input or output."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = [entry.dim_param or str(entry.dim_value) for entry in tensor.shape.dim]
    return f"{value.name} {kind} [{', '.join(shape)}]"


def line(label: str, text: str) -> str:
    """One line of two columns."""
    return f"{label:{LABEL}}{text}"


def megabytes(size: int) -> str:
    """A size as a person reads it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"


def pairs(values: Mapping[str, Any]) -> str:
    """Keys and values on one line; floats to six digits, texts as they are, the rest as JSON."""
    return ", ".join(f"{key} {short(value)}" for key, value in values.items())


def short(value: Any) -> str:
    """A value of `pairs`."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown(tokens: tuple[str, ...]) -> str:
    """The tokens, the space and the blank made visible; only the ends of a long list."""
    names = [{"": "<blank>", " ": "<space>"}.get(token, token) for token in tokens]
    return " ".join(names if len(names) <= 40 else [*names[:20], "…", *names[-10:]])
