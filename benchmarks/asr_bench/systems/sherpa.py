"""sherpa-onnx with a NeMo CTC model from a folder (model.onnx, tokens.txt): greedy decoding, its own ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sherpa_onnx

from asr_bench.systems import Setting
from asr_runtime.audio import read_audio
from asr_runtime.errors import EngineError

RATE = 16000  # hertz


class Sherpa:
    """sherpa-onnx as a System: batches of files in their order, as many threads as the setting says."""

    def __init__(self, recognizer: Any, batch_size: int) -> None:
        self._recognizer, self._batch_size = recognizer, batch_size
        self.device = f"cpu (sherpa-onnx {version('sherpa-onnx')}, NeMo CTC)"

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """See `System.texts`."""
        for begin in range(0, len(files), self._batch_size):
            streams = []
            for file in files[begin : begin + self._batch_size]:
                streams.append(self._recognizer.create_stream())
                streams[-1].accept_waveform(RATE, read_audio(file, RATE))
            self._recognizer.decode_streams(streams)
            yield from (stream.result.text for stream in streams)


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> Sherpa:
    """The NeMo CTC model in the folder `model`; raises EngineError where its files are not there."""
    files = [Path(model) / name for name in ("model.onnx", "tokens.txt")]
    if missing := [file for file in files if not file.is_file()]:
        raise EngineError(f"{missing[0]}: there is no such file; give the folder of a NeMo CTC model of sherpa-onnx.")
    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        model=str(files[0]), tokens=str(files[1]), num_threads=setting["threads"]
    )
    return Sherpa(recognizer, setting["batch_size"])
