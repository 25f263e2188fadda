"""`asr-export inspect`: a bundle at a glance. Needs neither PyTorch nor an engine."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from asr_export.importers.files import read_graph
from asr_runtime.bundle import Bundle, BundleFile
from asr_runtime.manifest import FORMAT

LABEL = 13  # characters of the left column


def inspect(path: Path) -> Iterator[str]:
    """The lines of a description of the bundle at `path`; raises BundleError and ExportError."""
    bundle = Bundle.load(path)
    total = sum(file.bytes for file in bundle.files)
    yield line("bundle", f"{bundle.name} ({bundle.language}), licence {bundle.licence}")
    yield line("format", f"{FORMAT}, {megabytes(total)}, files: {len(bundle.files)}")
    yield line("tokens", f"{len(bundle.tokens)}: {shown(bundle.tokens)}, blank {bundle.blank}")
    batches = "" if bundle.padding else ", no padding: batches of one length"
    yield line("audio", f"{bundle.sample_rate} Hz, {1000 * bundle.frame_seconds:g} ms a frame{batches}")
    yield line("decoder", pairs(bundle.decoder) or "its defaults")
    for file in bundle.files:
        yield line("file", " ".join([file.path, f"({file.role})", megabytes(file.bytes), pairs(file.target)]).rstrip())
        if file.engine == "onnx":
            yield from describe_graph(bundle, file)
    for name, proof in bundle.proofs.items():
        kinds = proof if isinstance(proof, Mapping) else {"": proof}
        for kind, figures in kinds.items():
            yield line("proof", f"{f'{name} {kind}'.rstrip()}: {shown_value(figures)}")
    for key, value in bundle.provenance.items():
        yield line("provenance", f"{key}: {shown_value(value)}")


def describe_graph(bundle: Bundle, file: BundleFile) -> Iterator[str]:
    """Precision, weights, opsets, inputs, outputs and operators of an ONNX model."""
    model = read_graph(bundle.path(file))
    graph = model.graph
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    weights: Counter[str] = Counter()
    for tensor in graph.initializer:
        weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += math.prod(tensor.dims)
    stored = ", ".join(f"{count:,} {kind}" for kind, count in weights.most_common())
    operators = Counter(node.op_type for node in graph.node)
    yield line("", f"precision {file.precision}; {stored}")
    yield line("", f"opset {opsets}, IR {model.ir_version}, by {model.producer_name or 'an unknown producer'}")
    yield line("", f"in  {'; '.join(signature(value) for value in graph.input)}")
    yield line("", f"out {'; '.join(signature(value) for value in graph.output)}")
    yield line(
        "", f"{len(graph.node)} nodes: " + ", ".join(f"{name} {count}" for name, count in operators.most_common())
    )


def signature(value: onnx.ValueInfoProto) -> str:
    """Name, type and shape of an input or output."""
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = [entry.dim_param or str(entry.dim_value) for entry in tensor.shape.dim]
    return f"{value.name} {kind} [{', '.join(shape)}]"


def line(label: str, text: str) -> str:
    """One line of two columns."""
    return f"{label:{LABEL}}{text}"


def megabytes(size: int) -> str:
    """A size as a person reads it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"


def pairs(values: Mapping[str, Any]) -> str:
    """Keys and values on one line; objects inside them as JSON."""
    return ", ".join(f"{key} {short(value)}" for key, value in values.items())


def shown_value(value: Any) -> str:
    """A value of proofs or provenance, where other programs may have put anything; an object without brackets."""
    return pairs(value) if isinstance(value, Mapping) else short(value)


def short(value: Any) -> str:
    """A plain value, with floats to six digits; what holds others in brackets."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return f"({pairs(value)})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown(tokens: tuple[str, ...]) -> str:
    """The tokens, the space and the blank made visible; only the ends of a long list."""
    names = [{"": "<blank>", " ": "<space>"}.get(token, token) for token in tokens]
    return " ".join(names if len(names) <= 40 else [*names[:20], "…", *names[-10:]])
