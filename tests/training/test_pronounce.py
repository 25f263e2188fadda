"""Pronunciations: read, made, and learnt by the model or by an intermediate layer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from asr_runtime.errors import RecipeError
from asr_training import loop
from asr_training.cli import app
from asr_training.loop import fit
from asr_training.pronounce import arpabet, pronounce
from asr_training.recipe import ConvolutionAttention, Recipe, read_recipe
from asr_training.text import Pronunciations

SMALL = ConvolutionAttention(stem=16, width=16, blocks=3, expansion=2, kernel=3, heads=2, conditioned=True)


def lexicon(folder: Path, text: str) -> Path:
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_becomes_its_phonemes(tmp_path: Path) -> None:
    known = Pronunciations(lexicon(tmp_path, "to\tt u\ntoo\tt u\nsee\ts i\n"))
    assert known.phonemes == ["i", "s", "t", "u"]
    assert known.encode("see to too").tolist() == [1, 0, 2, 3, 2, 3]
    assert known.blank == 4


@pytest.mark.parametrize("text", ["no tab\n", "word\t\n", "to\tt u\nbare\n"])
def test_a_line_without_phonemes_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"line [12]: wanted a word, a tab and its phonemes"):
        Pronunciations(lexicon(tmp_path, text))


def test_missing_pronunciations_say_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no pronunciations at .*; make them .* with asr-train pronounce"):
        Pronunciations(tmp_path / "none.txt")


def test_a_word_without_a_pronunciation_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'sea'"):
        Pronunciations(lexicon(tmp_path, "see\ts i\n")).encode("see sea")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_words_of_manifests_get_their_phonemes(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": "a.wav", "text": "see the through o'clock"}) + "\n")
    out = tmp_path / "words.txt"
    result = CliRunner().invoke(app, ["pronounce", str(manifest), "--out", str(out)])
    assert result.exit_code == 0 and "4 words" in result.output
    assert Pronunciations(out).spell("see the through o'clock") == "si DA Tru Aklak"


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_words_of_a_text_get_their_phonemes_in_the_voices_own_letters(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a bird\nBIRD judge\n")
    out = tmp_path / "said.txt"
    assert pronounce([tmp_path / "words.txt"], out) == 3
    assert out.read_text() == "a\tA\nbird\tb R d\njudge\tJ A J\n"
    assert pronounce([tmp_path / "words.txt"], out, "de") == 3
    assert "bird\tb ɪ ɾ t\n" in out.read_text()


ENGLISH = {
    "dʒ ʌ dʒ": "JAJ",
    "w ɔ ɾ ɚ": "wctR",
    "l ɪ ɾ əl": "lItAl",
    "ʘ": "",
    "h o ɹ s": "hcrs",  # hoarse
    "h ɔ ɹ s": "hcrs",  # horse
    "m ɜ m ɚ ɹ ɪ ŋ": "mRmRIG",
    "p ɹ oʊ ɹ eɪ t": "proret",
}


@pytest.mark.parametrize(("ipa", "letters"), ENGLISH.items())
def test_ipa_becomes_one_letter_a_phoneme(ipa: str, letters: str) -> None:
    assert arpabet(ipa) == letters


def with_phonemes(recipe: Recipe, words: Path, phonemes: int) -> Recipe:
    data = dataclasses.replace(recipe.data, pronunciations=str(words))
    return dataclasses.replace(recipe, data=data, model=dataclasses.replace(SMALL, phonemes=phonemes))


def spelled(manifest: Path) -> str:
    """Every word of a manifest with its letters for phonemes, c and k alike."""
    texts = [json.loads(line)["text"] for line in manifest.read_text().splitlines()]
    words = sorted({word for text in texts for word in text.split()})
    return "".join(f"{word}\t{' '.join(word.replace('c', 'k'))}\n" for word in words)


def test_a_run_learns_phonemes_between(tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path) -> None:
    words = lexicon(tmp_path, spelled(tiny_manifest))
    phonemes = len(Pronunciations(words).phonemes)
    recipe = with_phonemes(tiny_recipe(epochs=3, intermediate_weight=0.5), words, phonemes)
    rows = fit(recipe, tmp_path / "run").rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_the_gradient_of_phonemes_is_that_of_the_whole_step_however_it_is_cut(
    tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    """Texts of different lengths lie in the parts, so that a part that counted only its own phonemes would differ."""
    words = lexicon(tmp_path, spelled(tiny_manifest))
    phonemes = len(Pronunciations(words).phonemes)
    gradients = []
    for name, settings in (("large", {"batch_utterances": 8}), ("summed", {"batch_utterances": 2, "accumulate": 4})):
        recipe = with_phonemes(tiny_recipe(epochs=1, intermediate_weight=0.5, **settings), words, phonemes)
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dropout=0.0))
        run = loop.begin(recipe, tmp_path / name, torch.device("cpu"))
        step = next(loop.remaining(run))
        for part, make in enumerate(step.batches):
            loop.add_part(run, step, part, make(), last=part == len(step.batches) - 1)
        gradients.append({name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None})
    assert "encoder.intermediate.weight" in gradients[0]
    assert set(gradients[0]) == set(gradients[1])
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-5)


def test_another_number_of_phonemes_is_refused(
    tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    words = lexicon(tmp_path, spelled(tiny_manifest))
    with pytest.raises(RecipeError, match="phonemes is 7, but the pronunciations"):
        fit(with_phonemes(tiny_recipe(intermediate_weight=0.5), words, 7), tmp_path / "run")


def spoken_recipe(recipe: Recipe, words: Path, **changes: object) -> Recipe:
    data = dataclasses.replace(recipe.data, pronunciations=str(words), spoken=True, alphabet=" '" + ALPHABET[2:])
    return dataclasses.replace(recipe, data=dataclasses.replace(data, **changes), model=SPOKEN)


SPOKEN = dataclasses.replace(SMALL, conditioned=False)
ALPHABET = "' abdefghijklmnopqrstuvwxyz"  # no c: the words below have k for it


def test_a_model_learns_phonemes_itself(
    tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    words = lexicon(tmp_path, spelled(tiny_manifest))
    rows = fit(spoken_recipe(tiny_recipe(epochs=3), words), tmp_path / "run").rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    command = ["evaluate", str(tmp_path / "run/last"), str(tiny_manifest)]
    told = CliRunner().invoke(app, [*command, "--pronunciations", str(words), "--verbose"])
    assert told.exit_code == 0 and "spoken" in told.output and "WER" in told.output


def test_a_text_with_a_word_that_has_no_pronunciation_is_a_fault(
    tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    words = lexicon(tmp_path, spelled(tiny_manifest).split("\n", 1)[1])
    with pytest.raises(RecipeError, match="no pronunciation"):
        fit(spoken_recipe(tiny_recipe(epochs=1), words), tmp_path / "run")


def test_a_model_that_writes_phonemes_refuses_those_of_several_characters(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    words = lexicon(tmp_path, "see\ts i\ncheap\ttʃ i p\n")
    recipe = tiny_recipe(epochs=1)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, pronunciations=str(words), spoken=True))
    with pytest.raises(RecipeError, match="the phoneme 'tʃ' has 2 characters") as caught:
        fit(recipe, tmp_path / "run")
    one_sentence(str(caught.value))
    assert str(words) in str(caught.value)


def test_spoken_needs_pronunciations(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[data]\ntrain = [{ path = "a" }]\nvalidation = [{ path = "a" }]\nspoken = true\n'
        '[model]\narchitecture = "crnn"\n[training]\nbatch_utterances = 1\n'
    )
    with pytest.raises(RecipeError, match="spoken is true without pronunciations"):
        read_recipe(str(recipe))
