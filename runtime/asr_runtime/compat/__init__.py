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


class LastDecoder:
    """The decoder of the last settings: these packages take settings by the call, ours when a decoder is made."""

    def __init__(self, build: Callable[[BeamConfig], BeamSearchDecoder]) -> None:
        self._build = build
        self._last: BeamSearchDecoder | None = None

    def get(self, config: BeamConfig) -> BeamSearchDecoder:
        """The decoder for these settings, made anew only when they differ from the last ones."""
        decoder = self._last
        if decoder is None or decoder.config != config:
            decoder = self._last = self._build(config)
        return decoder
