"""onnx-asr with any of its models (NeMo, Whisper, Kaldi, GigaAM…) from a folder: greedy decoding, ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_asr
import onnxruntime

from asr_bench.systems import Setting
from asr_runtime.audio import read_audio
from asr_runtime.errors import EngineError

RATE = 16000  # hertz


class OnnxAsr:
    """onnx-asr as a System: batches of files in their order, as many threads as the setting says."""

    def __init__(self, model: Any, name: str, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self.device = f"cpu (onnx-asr {version('onnx-asr')}, {name})"

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """See `System.texts`."""
        for begin in range(0, len(files), self._batch_size):
            batch = [read_audio(file, RATE) for file in files[begin : begin + self._batch_size]]
            yield from self._model.recognize(batch, sample_rate=RATE)


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> OnnxAsr:
    """The model in the folder `model`, of the type that its config.json names; raises EngineError without one."""
    try:
        kind = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{model}: got no config.json with a model_type ({error!r}); give a model of onnx-asr."
        ) from None
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = setting["threads"]
    try:
        loaded = onnx_asr.load_model(kind, model, sess_options=threads, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnx-asr's and ONNX Runtime's have no common kind
        raise EngineError(f"{model}: onnx-asr cannot load this {kind} ({str(error).splitlines()[0]}).") from error
    return OnnxAsr(loaded, kind, setting["batch_size"])
