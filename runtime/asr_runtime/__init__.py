"""Speech to text from a bundle, without PyTorch.

>>> import asr_runtime
>>> recognizer = asr_runtime.load()
>>> recognizer.transcribe("talk.flac").text
"""

from asr_runtime.bundle import Bundle
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import AsrError, AudioError, BundleError, DecoderError, EngineError
from asr_runtime.raw import RawAudio, RawFormat
from asr_runtime.recognizer import Recognizer, load
from asr_runtime.transcript import Segment, Transcript, Word

__version__: str

__all__ = [
    "AsrError",
    "AudioError",
    "BeamConfig",
    "BeamSearchDecoder",
    "Bundle",
    "BundleError",
    "DecoderError",
    "EngineError",
    "RawAudio",
    "RawFormat",
    "Recognizer",
    "Segment",
    "Transcript",
    "Word",
    "__version__",
    "load",
]


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: the look-up costs more than the rest of this import."""
    if name != "__version__":
        raise AttributeError(f"module 'asr_runtime' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("asr-deploy")
    except PackageNotFoundError:  # a source tree that is not installed
        return "unknown"
