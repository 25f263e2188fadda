"""ONNX files of others: read whole, with nothing from outside their own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from asr_runtime.errors import ExportError

LARGEST_MODEL = 2 << 30  # bytes: protobuf's limit, and so that of a model in a bundle


def load_model(path: Path) -> onnx.ModelProto:
    """An ONNX model with all its weights inside; raises ExportError.

    Weights in other files are taken only from plain files beside the model that hold what the model says they do.
    """
    if path.is_symlink() or not path.is_file():
        raise ExportError(f"{path}: there is no plain file here; give an ONNX model.")
    try:
        too_large(path, path.stat().st_size)
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ExportError(f"{path}: this is no whole ONNX model ({first_line(error)}); fetch it again.") from None
    outside = [tensor for tensor in tensors(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    outside += [tensor for function in model.functions for tensor in of_nodes(function.node) if tensor.external_data]
    too_large(path, path.stat().st_size + sum(check_place(path, tensor) for tensor in outside))
    if outside:
        load_external_data_for_model(model, str(path.parent))
    return model


def too_large(path: Path, size: int) -> None:
    """Raise ExportError for what one file cannot hold."""
    if size >= LARGEST_MODEL:
        raise ExportError(f"{path}: got {size} bytes of weights, wanted less than 2 GiB; take a smaller model.")


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from of_nodes(graph.node)


def of_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in attributes."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from tensors(inner)


def check_place(model: Path, tensor: onnx.TensorProto) -> int:
    """The bytes of a tensor that lies in another file, if that is a plain file of the model's folder and holds them."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    place, name = said.get("location", ""), tensor.name[:80]
    plain = place not in ("", ".", "..") and "\\" not in place and PurePosixPath(place).name == place
    file = model.parent / place
    if not plain or file.is_symlink() or not file.is_file():
        raise ExportError(
            f"{model}: the weights {name!r} lie in {place!r:.120}, wanted a plain file beside the model; "
            "fetch the model's whole folder."
        )
    try:
        offset, length = int(said.get("offset", "0")), int(said.get("length", "0"))
    except ValueError:
        offset = length = -1
    size = file.stat().st_size
    if min(offset, length) < 0 or offset + length > size:
        raise ExportError(f"{model}: the weights {name!r} reach beyond the {size} bytes of {place}; fetch it again.")
    return length or size - offset


def first_line(error: Exception) -> str:
    """What an error says, short and on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
