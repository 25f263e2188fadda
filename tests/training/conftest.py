from __future__ import annotations

import dataclasses
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
