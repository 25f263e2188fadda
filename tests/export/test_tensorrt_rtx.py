"""TensorRT-RTX builds engines without a GPU: proof that NVIDIA's parser, typing and shape checks take our graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from asr_export.graph import author
from asr_export.scan import with_scans
from asr_export.tensorrt import Settings, build, library, to_tensorrt
from asr_export.to_onnx import to_onnx
from asr_runtime.bundle import Bundle, NewFile, write_bundle
from asr_runtime.engines.target import Target
from asr_runtime.errors import ExportError
from asr_runtime.recognizer import ENGLISH
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Model

pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13-bindings and -libs are not installed")

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
ARCHITECTURES = [
    CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=32, activation="gelu"),
    CRNN(channels=4, blocks=1, convolutions=2, recurrent_layers=1, recurrent_size=32),
    ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2),
]
AHEAD = ("8.6", "8.9", "12.0")
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]


def target(capabilities: tuple[str, ...] = AHEAD, **settings: object) -> Target:
    return Target(
        library="tensorrt-rtx",
        version=library(True).__version__,
        compute_capabilities=capabilities,
        profiles=Settings(**settings).profiles(16_000),  # type: ignore[arg-type]
    )


def built(graph: onnx.ModelProto, wanted: Target) -> bytes:
    return build(library(True), graph.SerializeToString(), wanted, Settings(rtx=True), lambda line: None)


# 8 bits are for CPUs: TensorRT wants them before nodes of its own
@pytest.mark.parametrize(("storage", "arithmetic"), [("fp32", "fp32"), ("fp16", "fp32"), ("fp32", "fp16")])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_an_engine_can_be_built(architecture: Model, storage: str, arithmetic: str, authored: Author) -> None:
    graph = author(authored(architecture)[0], TOKENS, storage, arithmetic)
    assert len(built(with_scans(graph), target(streaming=True))) > 10_000


def test_recurrent_layers_are_taken_as_operators_too(authored: Author) -> None:
    graph = author(authored(ARCHITECTURES[0])[0], TOKENS, arithmetic="fp16")
    assert len(built(graph, target())) > 10_000


def test_a_bundle_gets_an_engine_in_each_precision(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.asr"
    to_onnx(checkpoint, path)
    to_onnx(checkpoint, path, arithmetic="fp16")
    for precision in ("fp16", "fp32"):
        made, file = to_tensorrt(path, Settings(rtx=True, capabilities=("8.9",)), precision=precision)
        assert made.path(file).read_bytes()[:4] == b"vtrt"
        assert f"sm89-{precision}" in file.path
    assert len(Bundle.load(path).files) == 5


@pytest.mark.skipif(not ENGLISH.is_dir(), reason="this installation has no English bundle")
def test_the_bundle_that_ships_gets_an_engine(tmp_path: Path) -> None:
    english = Bundle.load(ENGLISH)
    model = next(file for file in english.files if file.engine == "onnx")
    new = NewFile(source=english.path(model), role="model", engine="onnx", precision=model.precision)
    write_bundle(tmp_path / "b", english, [new])
    _, file = to_tensorrt(tmp_path / "b", Settings(rtx=True), precision="fp32")
    assert file.bytes > 1e6


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [(("9.0",), "does not build for compute capability 9.0"), (("7.5",), "FP32 GEMM is not supported")],
)
def test_real_refusals_are_one_sentence(
    capabilities: tuple[str, ...], message: str, authored: Author, one_sentence: Callable[[str], None]
) -> None:
    _, graph = authored(ARCHITECTURES[2])
    with pytest.raises(ExportError, match=message) as caught:
        built(graph, target(capabilities))
    one_sentence(str(caught.value))


def test_an_operator_that_is_not_known_is_named(authored: Author, one_sentence: Callable[[str], None]) -> None:
    _, graph = authored(ARCHITECTURES[2])
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    changed.graph.node[5].op_type = "Conjure"
    with pytest.raises(ExportError, match=changed.graph.node[5].name) as caught:
        built(changed, target())
    one_sentence(str(caught.value))


def test_gru_with_sequence_lengths_is_why_there_is_a_pad_flag(authored: Author) -> None:
    graph = author(authored(ARCHITECTURES[0])[0], TOKENS, arithmetic="fp16")
    gru = next(node for node in graph.graph.node if node.op_type == "GRU")
    cast = onnx.helper.make_node("Cast", ["frames"], ["frames.int32"], "frames.int32", to=onnx.TensorProto.INT32)
    graph.graph.node.insert(list(graph.graph.node).index(gru), cast)
    next(node for node in graph.graph.node if node.op_type == "GRU").input.append("frames.int32")
    with pytest.raises(ExportError, match="cannot read the model"):
        built(graph, target())
