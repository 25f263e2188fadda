"""Speech to text from a bundle, without PyTorch.

>>> import asr_runtime
>>> recognizer = asr_runtime.load()
>>> recognizer.transcribe("talk.flac").text
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_runtime.bundle import Bundle
    from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
    from asr_runtime.errors import AsrError, AudioError, BundleError, DecoderError, EngineError
    from asr_runtime.raw import RawAudio, RawFormat
    from asr_runtime.recognizer import Recognizer, load
    from asr_runtime.transcript import Segment, Transcript, Word

__version__: str

# Where each name is; both are imported when they are asked for, so that `asr-run` is in charge of Ctrl-C before NumPy
# is there.
_MODULES = {
    "AsrError": "errors",
    "AudioError": "errors",
    "BeamConfig": "decoder",
    "BeamSearchDecoder": "decoder",
    "Bundle": "bundle",
    "BundleError": "errors",
    "DecoderError": "errors",
    "EngineError": "errors",
    "RawAudio": "raw",
    "RawFormat": "raw",
    "Recognizer": "recognizer",
    "Segment": "transcript",
    "Transcript": "transcript",
    "Word": "transcript",
    "load": "recognizer",
}
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    from importlib import import_module

    if name in _MODULES.values():
        return import_module(f"asr_runtime.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'asr_runtime' has no attribute {name!r}")
    found = getattr(import_module(f"asr_runtime.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES.values()})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("asr-deploy")
    except PackageNotFoundError:  # a source tree that is not installed
        return "unknown"
