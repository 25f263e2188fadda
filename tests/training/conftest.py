from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr_training.recipe import Recipe, Source, read_recipe


@pytest.fixture
def tiny_recipe(tiny_manifest: Path) -> Callable[..., Recipe]:
    """The recipe `tiny` on the shared recordings, with changes to its training table."""

    def make(**changes: Any) -> Recipe:
        recipe = read_recipe("tiny")
        source = (Source(str(tiny_manifest)),)
        data = dataclasses.replace(recipe.data, train=source, validation=source)
        training = dataclasses.replace(recipe.training, **changes)
        return dataclasses.replace(recipe, data=data, training=training)

    return make


@pytest.fixture(scope="session")
def cut_manifest(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight shared recordings with cuts in the middle of each space, as `asr-train align` writes them."""
    folder, rows = tmp_path_factory.mktemp("cut"), []
    for line in tiny_manifest.read_text().splitlines():
        row = json.loads(line)
        character = row["duration"] / len(row["text"])
        spaces = [place for place, letter in enumerate(row["text"]) if letter == " "]
        cuts = [[0, 0.0], *([word, (place + 0.5) * character] for word, place in enumerate(spaces, 1))]
        row |= {"audio": str(tiny_manifest.parent / row["audio"]), "cuts": [*cuts, [len(spaces) + 1, row["duration"]]]}
        rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "train.jsonl"
