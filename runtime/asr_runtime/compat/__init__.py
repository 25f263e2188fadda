"""Other packages' names and arguments on our decoder, for code that was written for them (docs/compat.md).

Each module says what it gives differently from its model; nothing of theirs is needed or imported.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import DecoderError


class CompatError(DecoderError, ValueError):
    """A DecoderError that code which catches the ValueError of the other package catches, too."""


@contextmanager
def value_errors() -> Iterator[None]:
    """Turns a DecoderError into a CompatError."""
    try:
        yield
    except DecoderError as error:
        raise CompatError(str(error)) from None


class RecentDecoders:
    """The decoders of the last few settings: these packages take settings by the call, ours when a decoder is made."""

    _KEPT = 4

    def __init__(self, build: Callable[[BeamConfig], BeamSearchDecoder]) -> None:
        self._build = build
        self._recent: list[BeamSearchDecoder] = []

    def get(self, config: BeamConfig) -> BeamSearchDecoder:
        """The decoder for these settings, made anew only when they are none of the last ones."""
        for decoder in self._recent:
            if decoder.config == config:
                return decoder
        decoder = self._build(config)
        self._recent = [decoder, *self._recent[: self._KEPT - 1]]
        return decoder
