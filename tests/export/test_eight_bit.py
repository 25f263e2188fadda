"""8-bit arithmetic for CPUs: close to PyTorch, one node for each product, refused where it does not pay or not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from asr_export.graph import author
from asr_export.proofs import Session, prove_integers
from asr_export.signals import speech_like
from asr_export.to_onnx import to_onnx
from asr_export.verify import verify
from asr_runtime.engines import choose
from asr_runtime.errors import ExportError
from asr_runtime.verify import verify as verify_here
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention
from asr_training.text import Alphabet

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
SMALL = ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2)
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]


def test_products_are_of_integers_and_stay_close(authored: Author, tmp_path: Path) -> None:
    model, plain = authored(SMALL)
    graph = author(model, TOKENS, arithmetic="int8")
    found = prove_integers(graph, model)
    assert 0 < found.mean_difference < 0.1
    products = sum(node.op_type == "MatMul" for node in plain.graph.node)
    assert sum(node.op_type == "MatMulInteger" for node in graph.graph.node) == products - 3  # mels, scores, weighted
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "MatMulInteger" not in left  # each became one node, with its scales


def test_two_products_fit_into_16_bits(authored: Author) -> None:
    """Processors with AVX2 and without VNNI add them there, and ONNX Runtime's results are wrong where they do not."""
    model, _ = authored(SMALL)
    graph = author(model, TOKENS, arithmetic="int8").graph
    matrices = [onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name.endswith(".weight.int8")]
    assert matrices
    for matrix in matrices:
        assert 2 * 255 * np.abs(matrix.astype(int)).max() < 2**15


def test_a_faulty_graph_is_refused(authored: Author) -> None:
    model, _ = authored(SMALL)
    graph = author(model, TOKENS, arithmetic="int8")
    (scale,) = (each for each in graph.graph.initializer if each.name == "logits.weight.scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(scale), scale.name))
    with pytest.raises(ExportError, match="does not bear 8-bit arithmetic"):
        prove_integers(graph, model)


def test_it_joins_the_bundle_and_is_taken_when_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    to_onnx(checkpoint, path)
    made, _ = to_onnx(checkpoint, path, arithmetic="int8")
    assert choose(made, "cpu").description.endswith("fp32")
    assert choose(made, "cpu", precision="int8").description.endswith("int8")
    assert [result.file.precision for result in verify(path, checkpoint)] == ["fp32", "int8"]
    assert [(outcome.precision, outcome.tolerance is None) for outcome in verify_here(made)] == [
        ("fp32", False),
        ("int8", True),
    ]


def test_small_recurrent_models_are_refused(authored: Author, tmp_path: Path) -> None:
    architecture = CRNN(channels=4, blocks=1, recurrent_layers=1, recurrent_size=24)
    model, _ = authored(architecture)
    alphabet = Alphabet("' abcdefghijklmnopqrstuvwxyz")
    write_checkpoint(tmp_path / "c", Checkpoint(model, model.config, architecture, alphabet, {}), {}, {})
    with pytest.raises(ExportError, match="faster from 512 units on, and these have 24"):
        to_onnx(tmp_path / "c", tmp_path / "b", arithmetic="int8")
    assert not (tmp_path / "b").exists()


def test_weights_have_a_scale_for_each_output(authored: Author) -> None:
    graph = author(authored(SMALL)[0], TOKENS, arithmetic="int8")
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    levels = weights["logits.weight.int8"]
    assert levels.dtype == np.int8
    assert weights["logits.weight.scale"].shape == levels.shape[1:]
    assert (np.abs(levels.astype(int)).max(0) == 63).all()


def test_recurrent_layers_are_loops_of_8_bit_products(authored: Author) -> None:
    model, plain = authored(CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24))
    graph = author(model, TOKENS, arithmetic="int8")
    found = prove_integers(graph, model)  # padded batches, whose padding must not move the backward state
    assert 0 < found.mean_difference < 0.1
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("GRU"), kinds.count("Scan")) == (0, 2)
    bodies = [attribute.g for node in graph.graph.node for attribute in node.attribute if attribute.name == "body"]
    assert all(node.op_type != "MatMul" for body in bodies for node in body.node)
    stored = {each.name for each in graph.graph.initializer}
    assert not stored & {each.name for each in plain.graph.initializer if each.name.endswith((".gru.W", ".gru.R"))}


def test_padding_does_not_leak_into_the_loops(authored: Author) -> None:
    model, _ = authored(CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24))
    session = Session(author(model, TOKENS, arithmetic="int8").SerializeToString())
    item = speech_like(16_000, 16_000, 3)
    short, long = (np.concatenate([item, np.zeros(size, np.float32)])[None] for size in (0, 80_000))
    (alone,), (padded,) = (session.log_probs(each, np.array([16_000])) for each in (short, long))
    assert np.abs(alone - padded).max() < 0.2  # of rounding: the state that a leak leaves behind moves far more
    assert (alone.argmax(1) == padded.argmax(1)).mean() > 0.9
