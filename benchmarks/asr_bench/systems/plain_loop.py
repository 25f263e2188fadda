"""What one writes first: file by file, read it, run ONNX Runtime on all threads, decode; nothing overlaps.

Reading, model and decoder are asr_runtime's, so that only the pipeline differs. It takes no file in windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnxruntime

from asr_bench.systems import Setting
from asr_runtime.audio import read_audio
from asr_runtime.bundle import Bundle
from asr_runtime.engines import pad
from asr_runtime.engines.onnx import OUTPUTS, onnx_model, unpad
from asr_runtime.recognizer import decoder_for


class PlainLoop:
    """A session with `threads` threads inside, and one decoder."""

    def __init__(self, bundle: Bundle, decoder: Any, precision: str | None, threads: int) -> None:
        self._bundle, self._decoder = bundle, decoder
        file = onnx_model(bundle, precision, half=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(bundle.path(file)), options, providers=providers)
        self.device = f"cpu (a plain loop over ONNX Runtime {onnxruntime.__version__}, {file.precision})"

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """See `System.texts`."""
        for file in files:
            waveforms, lengths = pad([read_audio(file, self._bundle.sample_rate)])
            outputs = self._session.run(list(OUTPUTS), {"waveform": waveforms, "lengths": lengths})
            (log_probs,) = unpad(*outputs, batch=1, tokens=len(self._bundle.tokens))
            stream = self._decoder.stream()
            stream.feed(log_probs)
            yield stream.finish()[0].text


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> PlainLoop:
    """The bundle `model` with its decoder; `options` are those of the beam search, or `greedy`."""
    bundle = Bundle.load(model)
    decoder = decoder_for(bundle, **{name: value for name, value in options.items() if name != "bundle"})
    return PlainLoop(bundle, decoder, setting["precision"] or None, setting["threads"])
