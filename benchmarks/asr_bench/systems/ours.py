"""asr_runtime with a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_bench.systems import Setting
from asr_runtime.errors import AsrError
from asr_runtime.recognizer import Recognizer
from asr_runtime.recognizer import load as load_recognizer


class Ours:
    """A Recognizer as a System."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.device = f"{recognizer.engine.device} ({recognizer.engine.description})"

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """See `System.texts`."""
        for result in self.recognizer.results(files):
            if isinstance(result, AsrError):
                raise result
            yield result.text


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> Ours:
    """The bundle `model` on a setting's device; `options` are those of asr_runtime.load."""
    options = {name: value for name, value in options.items() if name != "bundle"}
    return Ours(
        load_recognizer(
            model,
            setting["device"],
            precision=setting["precision"] or None,
            threads=setting["threads"],
            batch_size=setting["batch_size"],
            **options,
        )
    )
