"""pocketsphinx with the US English model of its package: a recogniser of another kind (hidden Markov models)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from pocketsphinx import Decoder

from asr_bench.systems import Setting
from asr_runtime.audio import read_audio

RATE = 16000  # hertz, of its model


class Sphinx:
    """pocketsphinx as a System; one file after another on one thread, as it knows no other way."""

    def __init__(self) -> None:
        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")
        self.device = f"cpu (pocketsphinx {version('pocketsphinx')})"

    def texts(self, files: Sequence[str]) -> Iterator[str]:
        """See `System.texts`."""
        for file in files:
            samples = np.clip(read_audio(file, RATE), -1, 1)
            self._decoder.start_utt()
            self._decoder.process_raw((32767 * samples).astype(np.int16).tobytes(), full_utt=True)
            self._decoder.end_utt()
            best = self._decoder.hyp()
            yield best.hypstr if best else ""


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> Sphinx:
    """Its default model; nothing here can be set."""
    return Sphinx()
