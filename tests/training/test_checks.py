from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_runtime.errors import RecipeError
from asr_training.checkpoint import load_checkpoint
from asr_training.loop import fit
from asr_training.recipe import Recipe, Source


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with a.wav to f.wav, all different and a second long, silent.wav and broken.wav."""
    rng = np.random.default_rng(0)
    for name in "abcdef":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.normal(size=16000).clip(-3, 3), 16000)
    soundfile.write(tmp_path / "silent.wav", np.full(16000, 2e-4), 16000)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    return tmp_path


def line(audio: str, text: str = "one", speaker: str = "") -> str:
    return json.dumps({"audio": f"{audio}.wav", "text": text, "speaker": speaker})


GOOD = [line("a"), line("b"), line("c", "three")]
FAULTS = {
    "broken line": "{",
    "empty text": line("d", " "),
    "character outside the alphabet": line("d", "naïve"),
    "unreadable audio": line("broken"),
    "silence": line("silent"),
}
DOUBTS = {
    "text longer than frames": line("d", "o" * 60),
    "duplicate": line("a"),
    "recording in both sets": line("f", "nine"),
    "speaker in both sets": line("d", "two", "anna"),
}


@pytest.fixture
def trained(tiny_recipe: Callable[..., Recipe], recordings: Path) -> Callable[..., Recipe]:
    """Makes the recipe `tiny` on the given lines, with validation on two other recordings, one of them anna's."""

    def make(lines: list[str]) -> Recipe:
        (recordings / "train.jsonl").write_text("\n".join(lines))
        (recordings / "dev.jsonl").write_text("\n".join([line("e", speaker="anna"), line("f", "eight")]))
        train, dev = (Source(str(recordings / f"{name}.jsonl")) for name in ("train", "dev"))
        recipe = tiny_recipe(epochs=1)
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=(train,), validation=(dev,)))

    return make


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_stops_the_run_before_it_begins_and_is_named_with_its_line(
    kind: str, trained: Callable[..., Recipe], tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        fit(trained([*GOOD, FAULTS[kind]]), tmp_path / "run")
    one_sentence(str(caught.value))
    assert "train.jsonl, line 4: " in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    assert (tmp_path / "run" / "data.txt").read_text().startswith(f"{kind}: ")
    assert not (tmp_path / "run" / "last").exists()


def test_all_faults_are_counted_and_listed(trained: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        fit(trained([*GOOD, *FAULTS.values(), line("silent", "two")]), tmp_path / "run")
    assert "2 × silence" in str(caught.value)
    assert "1 × broken line" in str(caught.value)
    listed = (tmp_path / "run" / "data.txt").read_text().splitlines()
    assert len(listed) == 6
    assert sorted(int(row.split("jsonl, line ")[1].split(":")[0]) for row in listed) == [4, 5, 6, 7, 8, 9]


def test_a_fault_of_data_that_are_learnt_by_heart_counts_once(trained: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = trained([*GOOD, *FAULTS.values()])
    with pytest.raises(RecipeError, match="1 × broken line"):
        fit(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, validation=recipe.data.train)), tmp_path)


@pytest.mark.parametrize("kind", DOUBTS)
def test_a_doubt_is_told_and_listed_and_the_run_goes_on(
    kind: str, trained: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(trained([*GOOD, DOUBTS[kind]]), tmp_path / "run").epoch == 1
    said = capsys.readouterr().err
    assert f"1 × {kind}; kept as they are" in said
    assert "train.jsonl, line 4: " in said
    assert (tmp_path / "run" / "data.txt").read_text().startswith(f"{kind}: ")


def test_the_run_goes_on_without_what_is_bad(
    trained: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = trained([*FAULTS.values(), *GOOD, *DOUBTS.values()])
    assert fit(recipe, tmp_path / "run", skip_bad=True).epoch == 1
    assert load_checkpoint(tmp_path / "run" / "last").provenance["data"]["utterances"] == 3
    said = capsys.readouterr().err
    assert "3 utterances" in said
    assert "; left out, see" in said
    with pytest.raises(RecipeError, match="another --skip-bad"):
        fit(dataclasses.replace(trained(GOOD)), tmp_path / "run")


def test_data_that_are_all_bad_are_refused_for_that(
    trained: Callable[..., Recipe], tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(
        RecipeError, match=r"left to train on, since all of them are faulty or doubtful, see .*data\.txt"
    ) as caught:
        fit(trained([*FAULTS.values()]), tmp_path / "run", skip_bad=True)
    one_sentence(str(caught.value))
    assert (tmp_path / "run" / "data.txt").exists()


def test_a_recording_with_two_texts_says_so(
    trained: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(trained([*GOOD, line("a", "two")]), tmp_path / "run")
    assert "line 1 with another text, 'one'" in capsys.readouterr().err


def test_a_manifest_that_is_named_twice_counts_once(
    trained: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = trained(GOOD)
    data = dataclasses.replace(recipe.data, train=2 * recipe.data.train)
    fit(dataclasses.replace(recipe, data=data), tmp_path / "run", skip_bad=True)
    said = capsys.readouterr().err
    assert "3 utterances" in said
    assert "3 × duplicate; left out" in said


def test_good_data_are_not_talked_about(
    trained: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(trained(GOOD), tmp_path / "run")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run" / "data.txt").exists()
