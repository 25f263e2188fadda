from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from asr_runtime.errors import RecipeError
from asr_training.loop import fit
from asr_training.manifest import read_manifest
from asr_training.model import AcousticModel
from asr_training.recipe import (
    BOUNDS,
    CRNN,
    RECIPES,
    Augment,
    ConvolutionAttention,
    Data,
    Features,
    Source,
    Training,
    check_model,
    read_recipe,
)

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
        (("batch_utterances = 4", "batch_utterances = 4\nlearning_rate = nan"), "learning_rate is nan"),
        (("batch_utterances = 4", "batch_utterances = 4\nlearning_rate = inf"), "learning_rate is inf"),
        (("batch_utterances = 4", 'batch_utterances = 4\nschedule = "linear"\nflat = 1.0'), "flat is 1.0"),
        (("batch_utterances = 4", "batch_utterances = 4\nseed = -1"), "seed is -1"),
        (("batch_utterances = 4", "batch_utterances = 4\nseed = 9223372036854775807"), "seed"),
        (("batch_utterances = 4", "batch_utterances = 4\nthreads = -4"), "threads is -4"),
        (("batch_utterances = 4", "batch_utterances = 4\nepochs = -1"), "epochs is -1"),
        (("batch_utterances = 4", "batch_utterances = -4\nbatch_seconds = 9"), "batch_utterances is -4"),
        (("batch_utterances = 4", "batch_utterances = 4\nintermediate_weight = 0.3"), "intermediate_weight"),
        (("batch_utterances = 4", 'batch_utterances = 4\nschedule = "step"'), "constant, linear, cosine"),
        (("batch_utterances = 4", "batch_utterances = 4\nbfloat16 = true\nfloat16 = true"), "both true"),
        (("batch_utterances = 4", "batch_utterances = 4\nema = 1.0"), "ema is 1.0"),
        (('"crnn"', '"crnn"\ndropout = 2.0'), "dropout is 2.0"),
        (('"crnn"', '"crnn"\nrecurrent_layers = 0'), "recurrent_layers is 0"),
        (('"crnn"', '"crnn"\nblocks = -1'), "[model]: blocks is -1"),
        (('"crnn"', '"convolution-attention"\nkernel = 4'), "kernel is 4"),
        (('"crnn"', '"convolution-attention"\nheads = 0'), "heads is 0"),
        (('"crnn"', '"convolution-attention"\nsubframes = 3'), "subframes is 3"),
        (('"crnn"', '"convolution-attention"\nsubframes = 2\nconditioned = true'), "conditioned is true"),
        (('[{ path = "train.jsonl" }]', "[]"), "train is empty"),
        (('[{ path = "dev.jsonl" }]', "[]"), "validation is empty"),
        (('{ path = "train.jsonl" }', '{ path = "train.jsonl", repeat = 0 }'), "[data]: repeat is 0"),
        (("[model]", 'alphabet = ""\n[model]'), "alphabet"),
        (("[model]", "[augment]\nfrequency_masks = 1\nfrequency_width = 81\n[model]"), "frequency_width is 81"),
        (("[model]", "[augment]\ntime_width = 0\n[model]"), "time_width is 0"),
        (("[model]", "[augment]\ntelephone = 0.1\n[features]\nlog = false\n[model]"), "for logarithmic features"),
        (("[model]", "[features]\nfloor = 0\n[model]"), "floor"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_the_fault(
    tmp_path: Path, change: tuple[str, str], named: str, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, MINIMAL.replace(*change)))
    one_sentence(str(caught.value))
    assert named in str(caught.value)


@pytest.mark.parametrize("table", [Source, Data, Features, CRNN, ConvolutionAttention, Augment, Training])
def test_every_number_of_a_recipe_has_bounds(table: type) -> None:
    numbers = {name for name, hint in get_type_hints(table).items() if hint in (int, float)}
    assert set(BOUNDS[table]) == numbers


@pytest.mark.parametrize("model", [CRNN, ConvolutionAttention])
def test_the_least_model_within_bounds_computes(model: type) -> None:
    config = model(**{key: least for key, (least, _) in BOUNDS[model].items()})
    check_model(config)
    acoustic = AcousticModel(Features(mels=1), config, 3)
    log_probs, frames = acoustic(torch.rand(1, 4000), torch.tensor([4000]))
    assert log_probs.isfinite().all()
    assert log_probs.shape[1] == frames[0]


def test_a_missing_recipe_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match="seed-librispeech"):
        read_recipe("no-such")


def test_the_recipe_to_begin_with_learns_a_handful_of_sentences_by_heart(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (text,) = re.search(r"A recipe to begin with.*?```toml\n(.*?)```", page, re.DOTALL).groups()
    rows = [{"audio": str(each.audio), "text": each.text} for each in read_manifest(tiny_manifest)[:4]]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    position = fit(read_recipe(write(tmp_path, text)), tmp_path / "run")
    assert position.best_wer == 0
    assert position.rows[-1]["wer"]["all"] == 0
