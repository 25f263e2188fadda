"""A recogniser inside Triton Inference Server: waveforms in, text out, its model served beside it.

`asr-export to-triton` writes a model repository whose Python model is `TritonPythonModel`. Triton gives it many
requests at once; their windows go to the acoustic model in batches of like length. Triton lets only the thread that
called `execute` ask another model, so that thread answers what the recogniser's threads ask for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from asr_runtime.audio import Samples
from asr_runtime.bundle import Bundle
from asr_runtime.engines import usable_cores, whole_seconds
from asr_runtime.engines.onnx import check_batch, unpad
from asr_runtime.errors import AsrError, AudioError, EngineError
from asr_runtime.recognizer import Recognizer, beam_search
from asr_runtime.transcript import Transcript
from asr_runtime.writers import as_json, json_pieces

BUNDLE = "bundle"  # folder of a model's version that holds the bundle without its models
ACOUSTIC_MODEL = "acoustic_model"  # parameter of the configuration that names the model to ask

LogProbs: TypeAlias = NDArray[np.float32]
Question: TypeAlias = "tuple[Samples, NDArray[np.int64], Future[list[LogProbs]]]"


class TritonPythonModel:
    """What Triton's Python backend loads.

    In: `waveform` float32 [batch, samples] in -1…1 at the bundle's rate and, where items are padded, `lengths` int64
    [batch, 1]. Out: `text` [batch, 1], and `transcript` [batch, 1], the JSON of `asr-run --format json`.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the decoder; Triton reports the sentence of an error and does not serve the model."""
        config = json.loads(args["model_config"])
        bundle = Bundle.load(Path(args["model_repository"], args["model_version"], BUNDLE))
        name = config["parameters"][ACOUSTIC_MODEL]["string_value"]
        self._engine = ServedEngine(bundle, name, int(config["max_batch_size"]))
        self._rate = bundle.sample_rate
        self._recognizer = Recognizer(
            bundle,
            self._engine,
            beam_search(bundle, True, {}),
            batch_size=self._engine.batch_size,
            threads=max(usable_cores(), 2),
        )
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="asr-recognizer")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, with an error in it where one of its recordings failed."""
        items = [_items(request) for request in requests]
        recordings = [(samples, self._rate) for found in items if not isinstance(found, AsrError) for samples in found]
        results = iter(self._engine.answer_while(self._caller.submit(lambda: [*self._recognizer.results(recordings)])))
        responses = []
        for found in items:
            each = [found] if isinstance(found, AsrError) else [next(results) for _ in found]
            responses.append(_response(each))
        return responses

    def finalize(self) -> None:
        """Let the recogniser's thread end."""
        self._caller.shutdown()


class ServedEngine:
    """An engine that has a model of the same server compute. Threads ask; who called `execute` answers."""

    device = "triton"

    def __init__(self, bundle: Bundle, model: str, batch_size: int) -> None:
        self.batch_size, self.description = batch_size, f"Triton's model {model}"
        self._model, self._tokens = model, len(bundle.tokens)
        self._rate, self._padding = bundle.sample_rate, bundle.padding
        self._questions: SimpleQueue[Question | None] = SimpleQueue()

    def log_probs(self, waveforms: Samples, lengths: NDArray[np.int64]) -> list[LogProbs]:
        """See `Engine.log_probs`."""
        check_batch(waveforms, lengths, padding=self._padding)
        answer: Future[list[LogProbs]] = Future()
        self._questions.put((waveforms, lengths, answer))
        return answer.result()

    def answer_while(self, work: Future[list[Transcript | AsrError]]) -> list[Transcript | AsrError]:
        """The result of `work`, whose questions are answered on this thread until it is done."""
        work.add_done_callback(lambda _: self._questions.put(None))
        while question := self._questions.get():
            waveforms, lengths, answer = question
            try:
                answer.set_result(self._ask(waveforms, lengths))
            except Exception as error:  # belongs to those who wait for the answer
                answer.set_exception(error)
        return work.result()

    def _ask(self, waveforms: Samples, lengths: NDArray[np.int64]) -> list[LogProbs]:
        if self._padding:  # few lengths: GPUs prepare for each, and equal ones of other instances join the batch
            missing = whole_seconds(max(waveforms.shape[1], 1), self._rate) - waveforms.shape[1]
            waveforms = np.pad(waveforms, ((0, 0), (0, missing)))
        response = pb_utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=["log_probs", "frames"],
            inputs=[pb_utils.Tensor("waveform", waveforms), pb_utils.Tensor("lengths", lengths[:, None])],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise EngineError(f"the model {self._model} failed in Triton ({response.error().message()}).")
        log_probs, frames = (
            pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in ("log_probs", "frames")
        )
        return unpad(log_probs, frames.reshape(-1), batch=len(waveforms), tokens=self._tokens)


def _items(request: Any) -> list[Samples] | AsrError:
    """The recordings of one request, without padding."""
    waveforms = pb_utils.get_input_tensor_by_name(request, "waveform").as_numpy()
    given = pb_utils.get_input_tensor_by_name(request, "lengths")
    if given is None:
        return [*waveforms]
    lengths = given.as_numpy().reshape(-1)
    if len(lengths) != len(waveforms) or not all(0 <= length <= waveforms.shape[1] for length in lengths):
        return AudioError(
            f"lengths are {lengths.tolist()[:8]} where waveform is {list(waveforms.shape)}; give each item's samples "
            "without padding."
        )
    return [waveform[:length] for waveform, length in zip(waveforms, lengths, strict=True)]


def _response(results: Sequence[Transcript | AsrError]) -> Any:
    """Texts as Triton's strings [batch, 1], or the first error."""
    errors = [each for each in results if isinstance(each, AsrError)]
    if errors:
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(errors[0])))
    transcripts = [each for each in results if isinstance(each, Transcript)]
    texts = {
        "text": [each.text for each in transcripts],
        "transcript": ["".join(json_pieces(as_json(each))) for each in transcripts],
    }
    tensors = [pb_utils.Tensor(name, _strings(values)) for name, values in texts.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _strings(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], np.object_)[:, None]
