from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr_runtime.errors import RecipeError
from asr_training import feature_store, loop
from asr_training.checkpoint import load_checkpoint, read_json, read_tensors, write_tensors
from asr_training.evaluate import evaluate
from asr_training.learner import Learner, disagreement
from asr_training.loop import fit, learning_rate
from asr_training.recipe import CRNN, Augment, ConvolutionAttention, Recipe, Training, read_recipe
from asr_training.steps import make_batch


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "last" / "model.safetensors")


SMALL = ConvolutionAttention(stem=16, width=16, blocks=3, expansion=2, kernel=3, heads=2, dropout=0.2)
RANDOM = Augment(0.2, 0.1, noise=0.5, frequency_masks=2, frequency_width=8, time_masks_per_second=2.0, time_width=8)
MASKS = Augment(noise=0.5, frequency_masks=1, frequency_width=8)


EVERYTHING = {
    "schedule": "cosine",
    "accumulate": 2,
    "ema": 0.9,
    "float16": True,
    "intermediate_weight": 0.3,
    "discriminative": 0.5,
    "consistency": 0.3,
}


@pytest.mark.parametrize(
    ("stop_after", "settings"),
    [(1, {"schedule": "linear"}), (5, {"schedule": "linear", "bfloat16": True}), (1, EVERYTHING), (3, EVERYTHING)],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    stop_after: int,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny_recipe(epochs=3, warmup_steps=3, **settings)
    if settings is EVERYTHING:
        recipe = dataclasses.replace(recipe, model=SMALL, augment=RANDOM)
    whole = fit(recipe, tmp_path / "whole")
    step = loop.step

    def stopping(run: loop.Run, *rest: object) -> None:
        step(run, *rest)  # type: ignore[arg-type]
        if run.position.step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "cut")
    monkeypatch.undo()
    resumed = fit(recipe, tmp_path / "cut")
    assert [row["train_loss"] for row in resumed.rows] == [row["train_loss"] for row in whole.rows]
    assert [row["validation_loss"] for row in resumed.rows] == [row["validation_loss"] for row in whole.rows]
    same_state(tmp_path / "whole" / "last", tmp_path / "cut" / "last")


def same_state(one: Path, other: Path) -> None:
    """Two checkpoints hold the same bits: weights, their average, optimiser and scale of the loss."""
    for file in ("model.safetensors", "training.safetensors"):
        first, second = read_tensors(one / file), read_tensors(other / file)
        assert set(first) == set(second)
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
    assert read_json(one / "training.json")["scale"] == read_json(other / "training.json")["scale"]


@pytest.mark.parametrize("settings", ["", 'accumulate = 2\nema = 0.9\nfloat16 = true\nschedule = "cosine"\n'])
def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny_manifest: Path, tmp_path: Path, settings: str) -> None:
    text = (Path(loop.__file__).parent / "recipes" / "tiny.toml").read_text()
    text = text.replace("tiny/train.jsonl", str(tiny_manifest)).replace("epochs = 60", "epochs = 5")
    # Validation, and with it a checkpoint, after every step: the kill falls on any of them.
    (tmp_path / "r.toml").write_text(text + settings + "validate_every_minutes = 1e-9\n")
    command = [sys.executable, "-c", "from asr_training.cli import main; main()", "fit", str(tmp_path / "r.toml")]
    position = tmp_path / "cut" / "last" / "training.json"
    with subprocess.Popen([*command, "--out", str(tmp_path / "cut")], stdout=subprocess.DEVNULL) as process:
        for _ in range(600):
            if position.is_file():
                break
            time.sleep(0.1)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for name in ("cut", "whole"):
        fit(read_recipe(str(tmp_path / "r.toml")), tmp_path / name)
    same_state(tmp_path / "whole" / "last", tmp_path / "cut" / "last")


def replaced(recipe: Recipe, **tables: dict[str, Any]) -> Recipe:
    """The recipe with some keys of some tables changed."""
    changed = {name: dataclasses.replace(getattr(recipe, name), **keys) for name, keys in tables.items()}
    return dataclasses.replace(recipe, **changed)


@pytest.mark.parametrize(
    "change",
    [{"longest_seconds": 0.2}, {"train": "repeat 0"}],
    ids=["nothing fits", "nothing repeats"],
)
def test_a_run_without_a_batch_is_refused(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, change: dict[str, Any], one_sentence: Callable[[str], None]
) -> None:
    recipe = tiny_recipe(epochs=1)
    if "train" in change:
        change = {"train": (dataclasses.replace(recipe.data.train[0], repeat=0),)}
    with pytest.raises(RecipeError, match="no utterance is left to train on") as caught:
        fit(replaced(recipe, data=change), tmp_path)
    one_sentence(str(caught.value))


def test_data_that_became_fewer_stop_a_run_that_stands_inside_an_epoch(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe(epochs=2)
    run = loop.begin(recipe, tmp_path, torch.device("cpu"))
    run.position.batch = 4  # of 4
    loop.save(run, "last")
    with pytest.raises(RecipeError, match="data have changed"):
        fit(recipe, tmp_path)


def test_the_first_line_says_what_is_left_out(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(replaced(tiny_recipe(epochs=1), data={"longest_seconds": 1.3}), tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1
    assert "8 utterances" in said[0]
    assert "4 of 8 left out: 4 longer than 1.3 s, 0 with too few frames" in said[0]


def test_an_interrupt_while_features_are_computed_stops_at_once(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = feature_store.read_audio, []

    def interrupting(*arguments: Any) -> Any:
        calls.append(arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return read(*arguments)

    monkeypatch.setattr(feature_store, "read_audio", interrupting)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_recipe(epochs=1), tmp_path)
    assert len(calls) == 1
    assert not (tmp_path / "last").exists()


def test_a_second_signal_stops_at_once(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = []

    def interrupting(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        went_on.append("after one signal")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        went_on.append("after two")

    monkeypatch.setattr(loop, "evaluate", interrupting)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_recipe(epochs=1), tmp_path)
    assert went_on == ["after one signal"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_finished_run_is_left_as_it_is(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=2)
    first = fit(recipe, tmp_path)
    assert fit(recipe, tmp_path).step == first.step


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"model": {"channels": 12}}, "[model]"),
        ({"model": {"dropout": 0.2}}, "[model]"),
        ({"features": {"low_hz": 50.0}}, "[features]"),
        ({"data": {"alphabet": "' zabcdefghijklmnopqrstuvwxy"}}, "alphabet"),
        ({"data": {"longest_seconds": 5.0}}, "longest_seconds"),
        ({"training": {"seed": 2}}, "seed"),
        ({"training": {"batch_utterances": 3}}, "batch_utterances times accumulate and processes"),
        ({"training": {"accumulate": 2}}, "batch_utterances times accumulate and processes"),
    ],
)
def test_a_run_does_not_go_on_with_a_recipe_of_another_kind(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    tables: dict[str, Any],
    named: str,
    one_sentence: Callable[[str], None],
) -> None:
    recipe = tiny_recipe(epochs=2)
    loop.save(loop.begin(recipe, tmp_path, torch.device("cpu")), "last")
    with pytest.raises(RecipeError, match="holds a run whose recipe has another") as caught:
        loop.begin(replaced(recipe, **tables), tmp_path, torch.device("cpu"))
    assert f"another {named} (" in str(caught.value)
    one_sentence(str(caught.value))


def test_a_run_that_goes_on_with_other_rates_and_epochs_records_the_earlier_recipes(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    fit(tiny_recipe(epochs=1), tmp_path)
    assert "earlier_recipes" not in load_checkpoint(tmp_path / "last").provenance
    fit(tiny_recipe(epochs=2, learning_rate=1e-3), tmp_path)
    fit(tiny_recipe(epochs=3, learning_rate=1e-3), tmp_path)
    provenance = load_checkpoint(tmp_path / "last").provenance
    assert provenance["recipe"]["training"]["epochs"] == 3
    earlier = [recipe["training"] for recipe in provenance["earlier_recipes"]]
    assert [(training["epochs"], training["learning_rate"]) for training in earlier] == [(1, 5e-3), (2, 1e-3)]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("training.json", b'{"foreign": 1}'),
        ("training.json", b"[]"),
        ("training.safetensors", b"cut"),
        ("config.json", b'{"provenance": {"recipe": "small"}}'),
        ("config.json", b'{"provenance": []}'),
    ],
)
def test_a_damaged_run_is_one_sentence(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, file: str, content: bytes, one_sentence: Callable[[str], None]
) -> None:
    recipe = tiny_recipe(epochs=1)
    loop.save(loop.begin(recipe, tmp_path, torch.device("cpu")), "last")
    (tmp_path / "last" / file).write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        loop.begin(recipe, tmp_path, torch.device("cpu"))
    one_sentence(str(caught.value))


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    config = Training(learning_rate=1.0, warmup_steps=10, schedule="linear", flat=0.5)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 0.4) == 1.0
    assert learning_rate(config, 75, 0.75) == pytest.approx(0.5)
    assert learning_rate(config, 99, 1.0) == 0.0
    assert learning_rate(Training(learning_rate=1.0), 99, 1.0) == 1.0
    cosine = Training(learning_rate=1.0, schedule="cosine")
    assert [round(learning_rate(cosine, 99, done), 3) for done in (0, 0.25, 0.5, 1)] == [1, 0.854, 0.5, 0]


def test_a_discriminative_loss_learns_the_texts_too(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain, discriminative = (
        fit(tiny_recipe(epochs=25, discriminative=weight), tmp_path / str(weight)).rows[-1] for weight in (0.0, 0.9)
    )
    assert discriminative["cer"]["all"] < 0.3
    assert discriminative["train_loss"] != plain["train_loss"]


def test_two_views_that_are_the_same_make_the_same_steps_as_one(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    one, two = (fit(tiny_recipe(epochs=2, consistency=weight), tmp_path / str(weight)) for weight in (0.0, 0.5))
    for first, second in zip(one.rows, two.rows, strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)
        assert second["audio_hours"] == pytest.approx(first["audio_hours"])


def test_two_views_learn_to_agree(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    found = []
    for weight in (1e-9, 1.0):
        recipe = dataclasses.replace(tiny_recipe(epochs=40, consistency=weight), augment=MASKS)
        position = fit(recipe, tmp_path / str(weight))
        assert position.rows[-1]["cer"]["all"] < 0.2  # two that hear nothing agree as well
        run = loop.begin(recipe, tmp_path / str(weight), torch.device("cpu"))
        batch = make_batch(run, 0, run.train.group(0, 0), np.arange(4), 0)
        with torch.no_grad():
            log_probs, frames, _ = run.model.eval().encode(batch.features, batch.frames)
        found.append(float(disagreement(log_probs, frames) / frames.sum()))
    assert 0 < found[1] < found[0] / 2


@pytest.mark.parametrize("number_format", ["bfloat16", "float16"])
def test_numbers_of_16_bits_learn_too(tiny_recipe: Callable[..., Recipe], tmp_path: Path, number_format: str) -> None:
    position = fit(tiny_recipe(epochs=4, **{number_format: True}), tmp_path)
    assert math.isfinite(position.rows[-1]["validation_loss"])
    assert position.rows[-1]["train_loss"] < position.rows[0]["train_loss"]


def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_falls(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = loop.begin(tiny_recipe(float16=True, ema=0.5), tmp_path, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.learner.add_gradient(run.train.batch(np.arange(2)), 1e30, 0.0, last=True)
    scale = run.learner.scaler.get_scale()
    _, finite = run.learner.update(1e-3)
    assert not finite
    assert run.learner.scaler.get_scale() == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_steps_without_a_finite_gradient_have_no_loss_and_end_the_run(
    tiny_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_sentence: Callable[[str], None],
) -> None:
    monkeypatch.setattr(Learner, "update", lambda _learner, _rate: (math.nan, False))
    position = fit(tiny_recipe(epochs=1), tmp_path / "short")
    assert math.isnan(position.rows[0]["train_loss"])
    assert json.loads((tmp_path / "short" / "last" / "config.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(RecipeError, match="the last 50 steps up to 50 had no finite gradient") as caught:
        fit(tiny_recipe(epochs=60), tmp_path / "long")
    one_sentence(str(caught.value))


def test_weights_that_are_not_finite_are_refused(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    fit(tiny_recipe(epochs=1), tmp_path)
    for name in ("training.safetensors", "model.safetensors"):
        tensors = read_tensors(tmp_path / "last" / name)
        first = next(key for key, value in tensors.items() if value.numel() > 1)
        tensors[first].view(-1)[1] = math.nan
        write_tensors(tmp_path / "last" / name, tensors)
        with pytest.raises(RecipeError, match=rf"{name}: {first} holds what is not finite; .*remove it to begin anew"):
            fit(tiny_recipe(epochs=2), tmp_path)


def test_a_run_says_that_its_views_are_the_same_and_that_it_is_done(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(tiny_recipe(epochs=1, consistency=0.1), augment=Augment(speed=0.2))
    fit(recipe, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith(recipe.data.train[0].path)
    assert "both views are the same" in said
    assert "nothing is left" not in said
    recipe = dataclasses.replace(recipe, augment=MASKS)
    fit(recipe, tmp_path)
    said = capsys.readouterr().err
    assert "both views are the same" not in said
    assert "nothing is left to train: epochs is 1" in said


def test_batches_whose_gradients_are_summed_are_one_large_batch(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    large = fit(tiny_recipe(epochs=2, batch_utterances=4), tmp_path / "large")
    summed = fit(tiny_recipe(epochs=2, batch_utterances=2, accumulate=2), tmp_path / "summed")
    for one, other in zip(large.rows, summed.rows, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert other["step"] == one["step"]
        assert other["audio_hours"] == pytest.approx(one["audio_hours"])


def test_the_average_of_the_weights_is_validated_and_kept(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=3, ema=0.8)
    run = loop.begin(recipe, tmp_path, torch.device("cpu"))
    expected = {name: value.clone() for name, value in run.model.state_dict().items()}
    for number, indices in enumerate(loop.remaining(run)):
        loop.step(run, indices, None)
        memory = min(0.8, (1 + number) / (10 + number)) if number else 0.0
        for name, value in run.model.state_dict().items():
            expected[name] = memory * expected[name] + (1 - memory) * value
    loop.save(run, "last")
    for name, value in load_checkpoint(tmp_path / "last").model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
        assert not torch.equal(value, run.model.state_dict()[name])
    loop.validate(run, None)
    scored = evaluate(load_checkpoint(tmp_path / "best").model, run.validation, run.device)
    assert scored["all"].loss == run.position.rows[-1]["validation_loss"]


def test_a_run_ends_when_it_gets_no_better_and_stays_ended(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    position = fit(tiny_recipe(epochs=50, learning_rate=1e-9, patience=2), tmp_path)
    assert len(position.rows) == 3
    assert fit(tiny_recipe(epochs=50, learning_rate=1e-9, patience=2), tmp_path).step == position.step
    assert "nothing is left to train: patience is 2, and so many validations" in capsys.readouterr().err
    assert len(fit(tiny_recipe(epochs=50, learning_rate=1e-9, patience=3), tmp_path).rows) == 4


def small(name: str, tiny: Recipe) -> Recipe:
    """The recipe `tiny` with the model of a seed recipe, made as small."""
    sizes = {"channels": 8, "blocks": 1, "recurrent_layers": 1, "recurrent_size": 96, "dropout": 0.0}
    return dataclasses.replace(tiny, model=dataclasses.replace(read_recipe(name).model, **sizes))


def test_the_model_of_seed_audio_recognition_made_small_is_that_of_tiny(tiny_recipe: Callable[..., Recipe]) -> None:
    """Which learns its sentences by heart: end_to_end/test_recording_to_text.py."""
    assert small("seed-audio-recognition", tiny_recipe()) == tiny_recipe()


def test_the_model_of_seed_librispeech_made_small_learns_sentences_by_heart(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = small("seed-librispeech", tiny_recipe())
    assert isinstance(recipe.model, CRNN)
    assert (recipe.model.convolutions, recipe.model.activation) == (2, "gelu")
    position = fit(recipe, tmp_path)
    assert position.best_wer == 0
    assert position.rows[-1]["train_loss"] < 0.2 * position.rows[0]["train_loss"]


def test_tensorboard_shows_each_step_once_after_a_run_that_died(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, saved = tiny_recipe(epochs=12, validate_every_minutes=1e-9), loop.save
    monkeypatch.setattr(loop, "save", lambda run, name: saved(run, name) if run.position.step <= 18 else None)
    step = loop.step

    def dying(run: loop.Run, *rest: Any) -> None:
        if run.position.step == 44:
            raise ZeroDivisionError
        step(run, *rest)

    monkeypatch.setattr(loop, "step", dying)
    with pytest.raises(ZeroDivisionError):
        fit(recipe, tmp_path)
    monkeypatch.undo()
    fit(recipe, tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == [20, 40]
    steps = [event.step for event in shown.Scalars("validation/wer")]
    assert steps == list(range(1, 49))
