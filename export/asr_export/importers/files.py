"""Files of others: read whole, with nothing from outside their own folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from asr_runtime.errors import ExportError

LARGEST_MODEL = 2 << 30  # bytes: protobuf's limit, and so that of a model in a bundle
LARGEST_TEXT = 4 << 20  # bytes of a configuration or a list of tokens


def load_model(path: Path) -> onnx.ModelProto:
    """An ONNX model with all its weights inside; raises ExportError.

    Weights in other files are taken only from plain files beside the model that hold what the model says they do.
    """
    model = read_graph(path)
    elsewhere = outside(model)
    too_large(path, path.stat().st_size + sum(check_place(path, tensor) for tensor in elsewhere))
    if elsewhere:
        load_external_data_for_model(model, str(path.parent))
    return model


def load_whole(path: Path) -> onnx.ModelProto:
    """An ONNX model of a bundle, whose weights are in the file; raises ExportError."""
    model = read_graph(path)
    if outside(model):
        raise ExportError(f"{path.name}: got weights in other files, wanted them in the file itself; export it again.")
    return model


def read_graph(path: Path) -> onnx.ModelProto:
    """What one file holds; raises ExportError."""
    if path.is_symlink() or not path.is_file():
        raise ExportError(f"{path}: there is no plain file here; give an ONNX model.")
    try:
        too_large(path, path.stat().st_size)
        return onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ExportError(f"{path}: this is no whole ONNX model ({first_line(error)}); fetch it again.") from None


def outside(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors that lie in other files."""
    found = [tensor for tensor in tensors(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return found + [each for function in model.functions for each in of_nodes(function.node) if each.external_data]


def plain(path: Path) -> Path:
    """A file of a model's folder that is there itself; raises ExportError for a link, which may lead anywhere."""
    if path.is_symlink():
        raise ExportError(f"{path}: this is a link, wanted the file itself; copy the folder with cp -rL.")
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file; give the model's whole folder.")
    return path


def read_text(path: Path) -> str:
    """A small text; raises ExportError."""
    if path.stat().st_size > LARGEST_TEXT:
        raise ExportError(f"{path}: got a file of more than {LARGEST_TEXT} bytes; this is no model's own.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExportError(f"{path}: this is no UTF-8 text ({error.reason}); fetch it again.") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder; raises ExportError."""
    text = read_text(plain(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: this is no JSON ({first_line(error)}); fetch it again.") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path}: this holds no JSON object; fetch it again.")
    return content


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
