"""Several processes under torchrun do what one does with a batch as large as theirs together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair import free_port, run_pair

from asr_runtime.errors import RecipeError
from asr_training import loop
from asr_training.checkpoint import read_json, read_tensors
from asr_training.recipe import read_recipe

AUGMENT = "[augment]\nspeed = 0.2\nnoise = 0.5\ntime_masks_per_second = 1.0\n"


def recipe(folder: Path, name: str, manifest: Path, settings: str, tables: str = "") -> Path:
    text = (Path(loop.__file__).parent / "recipes" / "tiny.toml").read_text()
    text = text.replace("tiny/train.jsonl", str(manifest)).replace("epochs = 60", "epochs = 3")
    # Adam's first steps are the sign of the gradient, which makes differences of rounding as large as the rate.
    text = text.replace("learning_rate = 5e-3", "learning_rate = 5e-4")
    path = folder / f"{name}.toml"
    path.write_text(text.replace("batch_utterances = 2\n", settings) + tables)
    return path


def fit(recipe: Path) -> None:
    """Train a recipe alone, in this process, into a folder of its name."""
    loop.fit(read_recipe(str(recipe)), recipe.with_suffix(""))


def fit_together(recipe: Path) -> None:
    """The same in two processes."""
    run_pair("-m", "asr_training.cli", "fit", str(recipe), "--out", str(recipe.with_suffix("")))


def torchrun(recipe: Path) -> subprocess.CompletedProcess[str]:
    """The same in two processes of torchrun."""
    launch = f"-m torch.distributed.run --nproc-per-node 2 --master-port {free_port()} -m asr_training.cli".split()
    command = [sys.executable, *launch, "fit", str(recipe), "--out", str(recipe.with_suffix(""))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_two_processes_do_what_one_does_with_the_doubled_batch(tiny_manifest: Path, tmp_path: Path) -> None:
    one = recipe(tmp_path, "one", tiny_manifest, "batch_utterances = 6\n")
    two = recipe(tmp_path, "two", tiny_manifest, "batch_utterances = 3\n")
    fit(one)
    result = torchrun(two)
    assert result.returncode == 0, result.stderr
    alone, shared = (read_json(tmp_path / name / "last" / "training.json") for name in ("one", "two"))
    assert alone["step"] == shared["step"]
    for first, second in zip(alone["rows"], shared["rows"], strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=5e-4)
        assert second["validation_loss"] == pytest.approx(first["validation_loss"], rel=5e-4)
        assert second["audio_hours"] == pytest.approx(first["audio_hours"])
    assert result.stdout.count("best weights") == 1
    assert result.stderr.count("8 utterances") == 1
    weights = [read_tensors(tmp_path / name / "best" / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=2e-3)


def test_the_layout_of_a_run_may_change_but_not_its_batches(tiny_manifest: Path, tmp_path: Path) -> None:
    """What is random is drawn by an utterance's place in its step: who computes it does not matter."""
    settings = "batch_seconds = 3\nema = 0.9\nconsistency = 0.1\n"
    two = recipe(tmp_path, "run", tiny_manifest, settings, AUGMENT)
    fit_together(two)
    more = two.read_text().replace("epochs = 3", "epochs = 4")
    two.write_text(more)
    with pytest.raises(RecipeError, match=r"times accumulate and processes \(6.0 there, 3.0 here\)"):
        fit(two)
    two.write_text(more.replace("batch_seconds = 3", "batch_seconds = 3\naccumulate = 2"))
    fit(two)
    assert len(json.loads((tmp_path / "run" / "last" / "training.json").read_text())["rows"]) == 4
    alone = recipe(tmp_path, "alone", tiny_manifest, settings + "accumulate = 2\n", AUGMENT)
    alone.write_text(alone.read_text().replace("epochs = 3", "epochs = 4"))
    fit(alone)
    rows = [read_json(tmp_path / name / "last" / "training.json")["rows"] for name in ("run", "alone")]
    for first, second in zip(*rows, strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-5)


PHONEMES = """
[model]
architecture = "convolution-attention"
stem = 16
width = 16
blocks = 3
expansion = 2
kernel = 3
heads = 2
dropout = 0.0
phonemes = {count}
conditioned = false
"""


LOSSES = "intermediate_weight = 0.5\ndiscriminative = 0.5\nconsistency = 0.2\n"


def test_phonemes_are_learnt_by_two_processes_as_by_one(tiny_manifest: Path, tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in tiny_manifest.read_text().splitlines()]
    words = sorted({word for text in texts for word in text.split()})
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("".join(f"{word}\t{' '.join(word.replace('c', 'k'))}\n" for word in words))
    count = len({letter for word in words for letter in word.replace("c", "k")})
    for name, settings in (("one", "batch_utterances = 6\n"), ("two", "batch_utterances = 3\n")):
        path = recipe(
            tmp_path,
            name,
            tiny_manifest,
            settings + LOSSES,
            AUGMENT,
        )
        text = path.read_text().replace("[data]\n", f'[data]\npronunciations = "{lexicon}"\n')
        model = text[text.index("[model]") : text.index("[training]")]
        path.write_text(text.replace(model, PHONEMES.format(count=count)))
    fit(tmp_path / "one.toml")
    fit_together(tmp_path / "two.toml")
    rows = [read_json(tmp_path / name / "last" / "training.json")["rows"] for name in ("one", "two")]
    for first, second in zip(*rows, strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=5e-4)
    weights = [read_tensors(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two")]
    # The loss of the phonemes alone moves the first of these, and the other losses the second.
    for layer in ("encoder.intermediate.weight", "encoder.output.weight"):
        torch.testing.assert_close(weights[0][layer], weights[1][layer], rtol=0, atol=1e-3)
