"""Triton Inference Server as far as a model repository shows it: configurations by Triton's own schema, and
`triton_python_backend_utils` for the Python backend, behind which the repository's ONNX models really run.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from google.protobuf.json_format import MessageToJson
from tritonclient.grpc import model_config_pb2

TYPES = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_STRING": np.object_}


@dataclass
class Tensor:
    label: str
    value: np.ndarray

    def name(self) -> str:
        return self.label

    def as_numpy(self) -> np.ndarray:
        return self.value


@dataclass
class TritonError:
    text: str

    def message(self) -> str:
        return self.text


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None

    def has_error(self) -> bool:
        return self.error is not None


def read_config(model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def check(values: Any, tensors: Iterable[Tensor], most: int) -> dict[str, np.ndarray]:
    """Tensors as Triton passes them on, if they are what a configuration's inputs or outputs say."""
    found = {tensor.name(): tensor.as_numpy() for tensor in tensors}
    known = {each.name: each for each in values}
    assert set(found) <= set(known), f"unknown tensors {set(found) - set(known)}"
    missing = {name for name, each in known.items() if name not in found and not getattr(each, "optional", False)}
    assert not missing, f"missing tensors {missing}"
    for name, value in found.items():
        dims = list(known[name].dims)
        assert value.dtype == TYPES[model_config_pb2.DataType.Name(known[name].data_type)], (name, value.dtype)
        assert 1 <= value.shape[0] <= most, (name, value.shape)
        assert len(value.shape) == 1 + len(dims), (name, value.shape, dims)
        assert all(wanted in (-1, size) for wanted, size in zip(dims, value.shape[1:], strict=True)), (
            name,
            value.shape,
        )
    return found


@dataclass
class Served:
    """One ONNX model of the repository."""

    config: Any
    session: onnxruntime.InferenceSession
    batches: list[tuple[int, int]] = field(default_factory=list)

    def run(self, tensors: Iterable[Tensor], wanted: Iterable[str]) -> InferenceResponse:
        inputs = check(self.config.input, tensors, self.config.max_batch_size)
        feeds = {
            each.name: inputs[each.name].reshape(-1, *each.reshape.shape)
            if each.HasField("reshape")
            else inputs[each.name]
            for each in self.config.input
        }
        self.batches.append(inputs["waveform"].shape)
        try:
            values = self.session.run(list(wanted), feeds)
        except Exception as error:  # as Triton does, which answers with it
            return InferenceResponse([], TritonError(str(error)))
        known = {each.name: each for each in self.config.output}
        made = [
            Tensor(name, value[:, None] if known[name].HasField("reshape") else value)
            for name, value in zip(wanted, values, strict=True)
        ]
        check(self.config.output, made, self.config.max_batch_size)
        return InferenceResponse(made)


class Server:
    """Serves a repository; `infer` sends requests to a model of the Python backend as its dynamic batcher would."""

    def __init__(self, repository: Path) -> None:
        self.models: dict[str, Served] = {}
        self.asking_thread: int | None = None
        for folder in sorted(repository.iterdir()):
            config = read_config(folder)
            assert config.name == folder.name
            assert (folder / "1").is_dir()
            if config.backend == "onnxruntime":
                path = folder / "1" / config.default_model_filename
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                self.models[config.name] = Served(config, session)
        self.repository = repository
        self.module = self.backend()

    def backend(self) -> types.ModuleType:
        module, server = types.ModuleType("triton_python_backend_utils"), self

        class InferenceRequest:
            def __init__(
                self,
                *,
                model_name: str,
                requested_output_names: list[str],
                inputs: list[Tensor],
                preferred_memory: Any = None,
            ) -> None:
                self.model, self.wanted, self.inputs = model_name, requested_output_names, inputs
                assert preferred_memory == "CPU", "outputs could lie on a GPU"

            def exec(self) -> Any:
                assert threading.get_ident() == server.asking_thread, "Triton hangs: this is not execute's thread"
                response = server.models[self.model].run(self.inputs, self.wanted)
                return types.SimpleNamespace(
                    has_error=response.has_error,
                    error=lambda: response.error,
                    output_tensors=lambda: response.output_tensors,
                )

        def by_name(tensors: Iterable[Tensor], name: str) -> Tensor | None:
            return next((tensor for tensor in tensors if tensor.name() == name), None)

        contents = {
            "InferenceRequest": InferenceRequest,
            "InferenceResponse": InferenceResponse,
            "Tensor": Tensor,
            "TritonError": TritonError,
            "TRITONSERVER_MEMORY_CPU": "CPU",
            "PreferredMemory": lambda kind: kind,
            "get_input_tensor_by_name": by_name,
            "get_output_tensor_by_name": lambda response, name: by_name(response.output_tensors(), name),
        }
        module.__dict__.update(contents)
        return module

    def load(self, name: str) -> Any:
        """The Python model, initialised; `triton_python_backend_utils` has to be this server's module by then."""
        folder = self.repository / name
        assert sys.modules["triton_python_backend_utils"] is self.module
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert spec
        assert spec.loader
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        model = loaded.TritonPythonModel()
        config = MessageToJson(read_config(folder), preserving_proto_field_name=True)
        model.initialize({"model_config": config, "model_repository": str(folder), "model_version": "1"})
        return model

    def infer(self, model: Any, name: str, requests: list[dict[str, np.ndarray]]) -> list[Any]:
        """For each request its outputs by name, or its error's text."""
        config = read_config(self.repository / name)
        lists = [[Tensor(key, value) for key, value in request.items()] for request in requests]
        for tensors in lists:
            check(config.input, tensors, config.max_batch_size)
        self.asking_thread = threading.get_ident()
        responses = model.execute(lists)
        assert len(responses) == len(requests)
        results: list[Any] = []
        for response in responses:
            if response.error:
                results.append(response.error.message())
            else:
                results.append(check(config.output, response.output_tensors, config.max_batch_size))
        return results
