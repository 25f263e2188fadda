"""A run that writes down which utterances each of its processes takes.   usage: noting.py RECIPE OUT"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from asr_training import processes, steps
from asr_training.corpus import Corpus
from asr_training.loop import fit
from asr_training.recipe import read_recipe


def fit_noting(recipe: Path, out: Path) -> None:
    """Train a recipe into `out`; a line `STEP TEXT` for each utterance goes to OUT-PROCESS.txt."""
    make = steps.make_batch

    def noting(run: Any, step: int, corpus: Corpus, indices: np.ndarray, part: int) -> Any:
        with Path(f"{out}-{processes.number()}.txt").open("a") as log:
            for index in indices[part :: run.parts]:
                print(step, corpus.utterances[index].text, file=log)
        return make(run, step, corpus, indices, part)

    with mock.patch.object(steps, "make_batch", noting):
        fit(read_recipe(str(recipe)), out)


if __name__ == "__main__":
    fit_noting(*map(Path, sys.argv[1:]))
