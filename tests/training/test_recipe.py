from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_runtime.errors import RecipeError
from asr_training.recipe import CRNN, RECIPES, ConvolutionAttention, read_recipe

MINIMAL = """
[data]
train = [{ path = "train.jsonl" }]
validation = [{ path = "dev.jsonl" }]
[model]
architecture = "crnn"
[training]
batch_utterances = 4
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.toml")])
def test_every_recipe_of_the_package_is_valid(name: str) -> None:
    assert read_recipe(name).name == name


def test_the_seed_recipes_have_the_published_sizes() -> None:
    first, second = read_recipe("seed-audio-recognition"), read_recipe("seed-librispeech")
    assert isinstance(first.model, CRNN)
    assert isinstance(second.model, CRNN)
    assert (first.model.blocks, first.model.convolutions, first.model.activation) == (5, 1, "relu")
    assert (second.model.blocks, second.model.convolutions, second.model.activation) == (3, 2, "gelu")
    for recipe in (first, second):
        training = recipe.training
        assert (training.epochs, training.batch_utterances, training.learning_rate) == (25, 40, 5e-4)
        assert recipe.features.mels == 128


def test_a_whole_number_serves_where_a_fraction_is_wanted(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, MINIMAL + "clip_norm = 2\n")).training.clip_norm == 2.0


def test_the_architecture_chooses_the_table_of_the_model(tmp_path: Path) -> None:
    text = MINIMAL.replace('"crnn"', '"convolution-attention"\nblocks = 2')
    model = read_recipe(write(tmp_path, text)).model
    assert isinstance(model, ConvolutionAttention)
    assert model.blocks == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("batch_utterances = 4", "batch_utterances = 4\nbatchsize = 3"), "batchsize"),
        (("[training]", "[trainig]"), "trainig"),
        (('"crnn"', '"transformer"'), "transformer"),
        (('"crnn"', '"crnn"\nactivation = "tanh"'), "tanh"),
        (("batch_utterances = 4", 'batch_utterances = "4"'), "batch_utterances"),
        (("batch_utterances = 4", "batch_utterances = 4\nbatch_seconds = 9"), "batch_seconds"),
        (("batch_utterances = 4", ""), "batch_utterances"),
        (('train = [{ path = "train.jsonl" }]', ""), "train"),
        (('[{ path = "train.jsonl" }]', '[{ file = "train.jsonl" }]'), "file"),
        (("[model]", "[model"), "TOML"),
        (("[model]", "[features]\nwindow = 399\n[model]"), "window"),
        (("[model]", "[features]\nhigh_hz = 9000.0\n[model]"), "9000"),
        (("[model]", "[features]\nhop = 0\n[model]"), "hop"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_the_fault(
    tmp_path: Path, change: tuple[str, str], named: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, MINIMAL.replace(*change)))
    one_sentence(str(caught.value))
    assert named in str(caught.value)


def test_a_missing_recipe_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match="seed-librispeech"):
        read_recipe("no-such")
