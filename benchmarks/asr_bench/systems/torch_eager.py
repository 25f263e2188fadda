"""PyTorch in eager mode on the checkpoint that the bundle was made from, in place of our engine only.

Reading, batches and the decoder are asr_runtime's, with as many workers of one thread each: only the model differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asr_bench.systems import Setting
from asr_bench.systems.ours import Ours
from asr_runtime.bundle import Bundle
from asr_runtime.errors import RecipeError
from asr_runtime.recognizer import Recognizer, decoder_for
from asr_training.checkpoint import load_checkpoint


class TorchEngine:
    """A checkpoint's model as an Engine, on the processor in float32."""

    device, batch_size = "cpu", 1
    description = f"PyTorch {torch.__version__} eager, fp32"

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model.eval()

    def log_probs(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """See `Engine.log_probs`."""
        with torch.inference_mode():
            log_probs, frames = self._model(torch.from_numpy(waveforms), torch.from_numpy(lengths))
        return [item[:count].numpy() for item, count in zip(log_probs, frames, strict=True)]


def load(model: str, setting: Setting, options: Mapping[str, Any]) -> Ours:
    """The checkpoint `model` with the decoder of the bundle among `options`; raises RecipeError if they do not fit."""
    torch.set_num_threads(1)
    options = dict(options)
    bundle, checkpoint = Bundle.load(options.pop("bundle")), load_checkpoint(Path(model))
    if list(bundle.tokens) != checkpoint.alphabet.tokens:
        raise RecipeError(f"{model} has other tokens than the bundle {bundle.name}; give the checkpoint of its model.")
    engine, decoder = TorchEngine(checkpoint.model), decoder_for(bundle, **options)
    return Ours(Recognizer(bundle, engine, decoder, batch_size=setting["batch_size"], threads=setting["threads"]))
