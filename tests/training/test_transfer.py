from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_runtime.errors import RecipeError
from asr_training import loop
from asr_training.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from asr_training.loop import fit
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model, Recipe
from asr_training.text import Alphabet
from asr_training.transfer import start_from

FEATURES = Features(mels=20)
MODELS: dict[str, Model] = {
    "crnn": CRNN(channels=2, blocks=1, convolutions=2, recurrent_layers=1, recurrent_size=8),
    "convolution-attention": ConvolutionAttention(stem=8, width=8, blocks=2, heads=2, kernel=3, attention_every=2),
}


def checkpoint(folder: Path, model: Model, characters: str = "abc ") -> AcousticModel:
    """A checkpoint of random weights, every one of them other than 0."""
    torch.manual_seed(1)
    acoustic = AcousticModel(FEATURES, model, len(characters) + 1).eval()
    for parameter in acoustic.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_checkpoint(folder, Checkpoint(acoustic, FEATURES, model, Alphabet(characters), {"data": "of old"}), {}, {})
    return acoustic


def recipe_of(recipe: Recipe, model: Model, characters: str = "abc ") -> Recipe:
    data = dataclasses.replace(recipe.data, alphabet=characters)
    return dataclasses.replace(recipe, model=model, features=FEATURES, data=data)


def begun(recipe: Recipe, folder: Path) -> tuple[AcousticModel, dict[str, Any]]:
    torch.manual_seed(2)
    model = AcousticModel(recipe.features, recipe.model, len(recipe.data.alphabet) + 1).eval()
    return model, start_from(model, recipe, folder)


WAVEFORMS = torch.randn(2, 9000, generator=torch.Generator().manual_seed(4)) * 0.1
LENGTHS = torch.tensor([9000, 4000])


@pytest.mark.parametrize("name", MODELS)
def test_a_run_begins_with_the_weights_of_its_checkpoint(
    name: str, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    earlier = checkpoint(tmp_path / "c", MODELS[name])
    model, origin = begun(recipe_of(tiny_recipe(), dataclasses.replace(MODELS[name], dropout=0.4)), tmp_path / "c")
    for key, value in earlier.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert origin["changes"] == []
    assert origin["provenance"] == {"data": "of old"}


@pytest.mark.parametrize("name", MODELS)
def test_new_blocks_begin_as_the_identity_and_learn(
    name: str, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    earlier = checkpoint(tmp_path / "c", MODELS[name])
    deeper = dataclasses.replace(MODELS[name], blocks=4)
    model, origin = begun(recipe_of(tiny_recipe(), deeper), tmp_path / "c")
    assert "which begin as the identity" in origin["changes"][0]
    (now, frames), (before, _) = model(WAVEFORMS, LENGTHS), earlier(WAVEFORMS, LENGTHS)
    for row, count in enumerate(frames):
        torch.testing.assert_close(now[row, :count], before[row, :count], rtol=0, atol=1e-6)
    now[0, :, 0].sum().backward()
    new = [p for key, p in model.named_parameters() if ".blocks.3." in key]
    assert any(p.grad is not None and bool(p.grad.any()) for p in new)


@pytest.mark.parametrize("phonemes", [0, 7])
def test_more_frames_a_step_begin_as_copies(phonemes: int, tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    coarse = dataclasses.replace(MODELS["convolution-attention"], phonemes=phonemes)
    earlier = checkpoint(tmp_path / "c", coarse)
    finer = dataclasses.replace(coarse, subframes=2)
    model, origin = begun(recipe_of(tiny_recipe(), finer), tmp_path / "c")
    assert origin["changes"] == ["each step writes 2 frames in place of 1; they begin alike"]
    (now, frames), (before, steps) = model(WAVEFORMS, LENGTHS), earlier(WAVEFORMS, LENGTHS)
    assert torch.equal(frames, 2 * steps)
    torch.testing.assert_close(now[0], before[0].repeat_interleave(2, 0), rtol=0, atol=1e-6)
    with pytest.raises(RecipeError, match="subframes is 1, but 2 in"):
        write_checkpoint(tmp_path / "f", Checkpoint(model, FEATURES, finer, Alphabet("abc "), {}), {}, {})
        begun(recipe_of(tiny_recipe(), coarse), tmp_path / "f")


def test_another_alphabet_of_finer_frames_keeps_what_both_have(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    finer = dataclasses.replace(MODELS["convolution-attention"], subframes=2)
    earlier = checkpoint(tmp_path / "c", finer)
    model, _ = begun(recipe_of(tiny_recipe(), finer, " bcé"), tmp_path / "c")
    old, new = earlier.encoder.output.weight, model.encoder.output.weight
    assert torch.equal(new[[0, 1, 2, 4, 5, 6, 7, 9]], old[[3, 1, 2, 4, 8, 6, 7, 9]])


@pytest.mark.parametrize("name", MODELS)
def test_another_alphabet_replaces_the_output_layer_and_keeps_what_both_have(
    name: str, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    earlier = checkpoint(tmp_path / "c", MODELS[name])
    model, origin = begun(recipe_of(tiny_recipe(), MODELS[name], " bcé"), tmp_path / "c")
    assert len(origin["changes"]) == 1
    assert "4 of its 5 tokens keep their weights, 'é' begin at random" in origin["changes"][0]
    old, new = earlier.encoder.output.weight, model.encoder.output.weight
    assert torch.equal(new[[0, 1, 2, 4]], old[[3, 1, 2, 4]])
    assert not torch.equal(new[3], old[3])
    same = [key for key in earlier.state_dict() if not key.startswith(("encoder.output", "encoder.intermediate"))]
    assert all(torch.equal(earlier.state_dict()[key], model.state_dict()[key]) for key in same)


@pytest.mark.parametrize("phonemes", [0, 7])
def test_a_conditioned_model_takes_another_alphabet_and_as_many_blocks(
    phonemes: int, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    conditioned = dataclasses.replace(MODELS["convolution-attention"], phonemes=phonemes, conditioned=True)
    earlier = checkpoint(tmp_path / "c", conditioned)
    model, _ = begun(recipe_of(tiny_recipe(), conditioned, " bcé"), tmp_path / "c")
    kept = torch.equal(model.encoder.condition.weight, earlier.encoder.condition.weight) if phonemes else True
    assert kept and model(WAVEFORMS, LENGTHS)[0].isfinite().all()
    with pytest.raises(RecipeError, match="blocks is 4"):
        begun(recipe_of(tiny_recipe(), dataclasses.replace(conditioned, blocks=4)), tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": MODELS["convolution-attention"]}, "architecture"),
        ({"model": dataclasses.replace(MODELS["crnn"], channels=4)}, "channels is 4, but 2"),
        ({"model": dataclasses.replace(MODELS["crnn"], recurrent_layers=2)}, "recurrent_layers"),
        ({"model": dataclasses.replace(MODELS["crnn"], blocks=1)}, "blocks is 1, but 3"),
        ({"features": Features(mels=24)}, "mels is 24, but 20"),
    ],
)
def test_weights_of_another_model_are_refused(
    change: dict[str, Any],
    named: str,
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    one_sentence: Callable[[str], None],
) -> None:
    model = dataclasses.replace(MODELS["crnn"], blocks=3)
    checkpoint(tmp_path / "c", model)
    with pytest.raises(RecipeError) as caught:
        begun(dataclasses.replace(recipe_of(tiny_recipe(), model), **change), tmp_path / "c")
    one_sentence(str(caught.value))
    assert named in str(caught.value)


def test_a_bundle_or_nothing_to_begin_from_is_one_sentence(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, tone_bundle: Path, one_sentence: Callable[[str], None]
) -> None:
    for start, said in ((tone_bundle, "was not made of a checkpoint"), (tmp_path / "no", "folder of a checkpoint")):
        with pytest.raises(RecipeError, match=said) as caught:
            begun(recipe_of(tiny_recipe(), MODELS["crnn"]), start)
        one_sentence(str(caught.value))


def test_a_fine_tuned_run_learns_faster_says_so_and_goes_on(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(tiny_recipe(epochs=20), tmp_path / "first")
    wider = tiny_recipe(epochs=2)
    wider = dataclasses.replace(wider, data=dataclasses.replace(wider.data, alphabet=wider.data.alphabet + "é"))
    start = tmp_path / "first" / "last"
    capsys.readouterr()
    tuned = fit(wider, tmp_path / "tuned", start=start)
    assert "29 of its 30 tokens keep their weights" in capsys.readouterr().err
    assert tuned.rows[0]["train_loss"] < 0.5 * first.rows[0]["train_loss"]
    origin = load_checkpoint(tmp_path / "tuned" / "last").provenance["from"]
    assert origin["provenance"]["recipe"]["training"]["epochs"] == 20

    longer = dataclasses.replace(wider, training=dataclasses.replace(wider.training, epochs=3))
    assert fit(longer, tmp_path / "tuned", start=start).epoch == 3
    assert load_checkpoint(tmp_path / "tuned" / "last").provenance["from"] == origin


def test_a_run_that_began_elsewhere_does_not_go_on_as_if_fine_tuned(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    for name in ("a", "b"):
        loop.save(loop.begin(tiny_recipe(epochs=1), tmp_path / name, torch.device("cpu")), "last")
    with pytest.raises(RecipeError, match="did not begin from") as caught:
        fit(tiny_recipe(epochs=1), tmp_path / "a", start=tmp_path / "b" / "last")
    one_sentence(str(caught.value))
