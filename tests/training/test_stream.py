"""Training on shards: the same steps as in memory, in groups of shards, that a run can stop and go on in anywhere."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import noting
import numpy as np
import pytest
import torch
from pair import run_pair

from asr_runtime.errors import RecipeError
from asr_training import loop
from asr_training.checkpoint import read_json, read_tensors
from asr_training.corpus import Corpus
from asr_training.evaluate import evaluate
from asr_training.loop import fit
from asr_training.manifest import Utterance, read_manifest
from asr_training.prepare import prepare
from asr_training.recipe import Augment, Recipe, Source
from asr_training.shards import Prepared, Recording, read_shards, write_index, write_shard
from asr_training.stream import Stream

RANDOM = Augment(0.2, 0.1, noise=0.5, frequency_masks=2, frequency_width=8, time_masks_per_second=2.0, time_width=8)


@pytest.fixture(scope="module")
def shards(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight shared recordings in shards of two."""
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    assert prepare([tiny_manifest], folder, size=2) == (8, 4, "")
    return folder


@pytest.fixture
def streamed(tiny_recipe: Callable[..., Recipe], shards: Path) -> Callable[..., Recipe]:
    """The recipe `tiny` on shards, with all that is random, and changes to its training table."""

    def make(at_once: int = 1, repeat: int = 1, **changes: Any) -> Recipe:
        recipe = dataclasses.replace(tiny_recipe(**changes), augment=RANDOM)
        train = (Source(str(shards), repeat),)
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=train, shards_at_once=at_once))

    return make


def same_weights(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "training.safetensors"):
        first, second = (read_tensors(folder / "last" / name) for folder in (one, other))
        assert set(first) == set(second)
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def without_clock(folder: Path) -> dict[str, Any]:
    """The position of a run without what depends on the clock."""
    position = read_json(folder / "last" / "training.json")
    for row in [position, *position["rows"]]:
        row.pop("wall_seconds", None)
        row.pop("minutes", None)
    return position


def test_the_same_data_in_the_same_order_train_the_same_from_shards_and_in_memory(
    streamed: Callable[..., Recipe], shards: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    audio = {u.text: str(u.audio) for u in read_manifest(tiny_manifest)}
    rows = [{"audio": audio[u.text], "text": u.text} for u in read_shards(shards)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = streamed(at_once=4, epochs=2, workers=2, intermediate_weight=0.0)
    in_memory = dataclasses.replace(recipe.data, train=(Source(str(tmp_path / "m.jsonl")),))
    fit(recipe, tmp_path / "streamed")
    training = dataclasses.replace(recipe.training, workers=0)
    fit(dataclasses.replace(recipe, data=in_memory, training=training), tmp_path / "memory")
    same_weights(tmp_path / "streamed", tmp_path / "memory")
    assert without_clock(tmp_path / "streamed") == without_clock(tmp_path / "memory")


def texts_of(run: loop.Run, epoch: int) -> list[str]:
    steps = [step for step in loop.upcoming(run) if step.epoch == epoch]
    return [step.corpus.utterances[index].text for step in steps for index in step.indices]


@pytest.mark.parametrize(("at_once", "repeat"), [(1, 1), (3, 1), (3, 2), (100, 2)])
def test_an_epoch_takes_every_utterance_once_or_as_often_as_it_is_repeated(
    streamed: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path, at_once: int, repeat: int
) -> None:
    run = loop.begin(streamed(at_once, repeat, epochs=2), tmp_path, torch.device("cpu"))
    expected = Counter({u.text: repeat for u in read_manifest(tiny_manifest)})
    first, second = (texts_of(run, epoch) for epoch in (0, 1))
    assert Counter(first) == Counter(second) == expected
    assert first != second


@pytest.mark.parametrize(
    ("kind", "stop_after", "workers"),
    [("shards", stop_after, workers) for stop_after, workers in ((1, 0), (2, 3), (3, 1), (4, 2), (7, 2))]
    + [("spliced", 1, 0), ("spliced", 14, 2)],
)
def test_a_run_that_dies_at_any_step_goes_on_bit_for_bit(
    streamed: Callable[..., Recipe],
    cut_manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    stop_after: int,
    workers: int,
) -> None:
    recipe = streamed(at_once=2, epochs=3, workers=workers)
    if kind == "spliced":  # put together anew in each epoch, of which the first has 12 steps or so
        train = (Source(str(cut_manifest), spliced=4.0),)
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=train))
    fit(recipe, tmp_path / "whole")
    step = loop.step

    def dying(run: loop.Run, *rest: Any) -> None:
        if run.position.step == stop_after:
            raise ZeroDivisionError
        step(run, *rest)

    monkeypatch.setattr(loop, "step", dying)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1)
    with pytest.raises(ZeroDivisionError):
        fit(recipe, tmp_path / "cut")
    assert read_json(tmp_path / "cut" / "last" / "training.json")["step"] == stop_after
    monkeypatch.undo()
    fit(recipe, tmp_path / "cut")
    same_weights(tmp_path / "whole", tmp_path / "cut")
    assert without_clock(tmp_path / "whole") == without_clock(tmp_path / "cut")


def test_two_processes_take_each_utterance_once_an_epoch(shards: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    text = (Path(loop.__file__).parent / "recipes" / "tiny.toml").read_text().replace("epochs = 60", "epochs = 2")
    text = text.replace("learning_rate = 5e-3", "learning_rate = 5e-4")
    text = text.replace("tiny/train.jsonl", str(shards), 1).replace("tiny/train.jsonl", str(tiny_manifest))
    text = text.replace("[features]", "shards_at_once = 2\n\n[features]") + "workers = 2\n"
    (tmp_path / "two.toml").write_text(text)
    (tmp_path / "one.toml").write_text(text.replace("batch_utterances = 2", "batch_utterances = 4"))
    noting.fit_noting(tmp_path / "one.toml", tmp_path / "one")
    run_pair(noting.__file__, str(tmp_path / "two.toml"), str(tmp_path / "two"))
    parts = [(tmp_path / f"two-{number}.txt").read_text().splitlines() for number in (0, 1)]
    alone = (tmp_path / "one-0.txt").read_text().splitlines()
    assert all(len(part) == 8 for part in parts)
    assert sorted(parts[0] + parts[1]) == sorted(alone)
    assert Counter(line.split(" ", 1)[1] for line in alone) == {u.text: 2 for u in read_manifest(tiny_manifest)}
    rows = [read_json(tmp_path / name / "last" / "training.json")["rows"] for name in ("one", "two")]
    for first, second in zip(*rows, strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=5e-4)


def many(folder: Path, shards: int, size: int = 100) -> Path:
    """Shards whose recordings are never read."""
    folder.mkdir()
    said = "the texts of these recordings are as long as those of others"
    table = []
    for number in range(shards):
        keys = range(number * size, (number + 1) * size)
        items = [
            Prepared(
                Utterance(Path("x.flac"), said, f"line {key}", "read", f"speaker {key % 20}"),
                b"audio",
                Recording(0, 5, 16000 * 5 + key, 16000, 0.5, f"{key:032x}"),
            )
            for key in keys
        ]
        table.append(write_shard(folder / f"{number:06d}.tar", keys[0], items))
    write_index(folder, table)
    return folder


def test_memory_does_not_grow_with_the_shards(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe, peaks = tiny_recipe(), []
    for number in (4, 16):
        source = Source(str(many(tmp_path / f"{number}", number)))
        data = dataclasses.replace(recipe.data, train=(source,), shards_at_once=2)
        tracemalloc.start()
        stream, steps = Stream(data, recipe.features, 1), 0
        loop.take_census(stream, data, 2)
        for group in range(stream.groups(0)):
            order = stream.group(0, group).training_order(data, recipe.training, 2, 0, group=group)
            steps += sum(len(batch) for batch in order)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert steps == 100 * number
    assert peaks[1] < 1.2 * peaks[0]


def relabelled(shards: Path, folder: Path, before: str, after: str) -> Path:
    """A copy of the shards with other words in their indices."""
    folder.mkdir()
    for path in shards.iterdir():
        text = path.read_bytes()
        (folder / path.name).write_bytes(
            text.replace(before.encode(), after.encode()) if path.suffix == ".jsonl" else text
        )
    return folder


def test_a_text_outside_the_alphabet_is_named_with_shard_and_line_or_left_out(
    streamed: Callable[..., Recipe],
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    one_sentence: Callable[[str], None],
) -> None:
    recipe = streamed(epochs=1)
    source = Source(str(relabelled(shards, tmp_path / "other", "it's late", "it's spät")))
    data = dataclasses.replace(recipe.data, train=(source,), validation=(source,))
    recipe = dataclasses.replace(recipe, data=data)
    with pytest.raises(RecipeError, match="the character 'ä'") as caught:
        fit(recipe, tmp_path / "run")
    one_sentence(str(caught.value))
    assert ".tar, " in str(caught.value) and "train.jsonl, line 3" in str(caught.value)
    fit(recipe, tmp_path / "run", skip_bad=True)
    assert read_json(tmp_path / "run" / "last" / "config.json")["provenance"]["data"]["utterances"] == 7
    assert "1 × character outside the alphabet; left out, see" in capsys.readouterr().err


def test_speakers_and_recordings_in_both_sets_are_told_and_can_be_left_out(
    streamed: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(streamed(epochs=1), tmp_path / "kept")
    assert "8 × speaker in both sets; kept as they are" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="no utterance is left to train on"):
        fit(streamed(epochs=1), tmp_path / "run", skip_bad=True)


def some_again(manifest: Path, folder: Path, sample_rate: int = 16000) -> Path:
    """Two of the shared recordings in shards of their own."""
    rows = [{"audio": str(u.audio), "text": u.text} for u in read_manifest(manifest)[:2]]
    (folder / "again.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare([folder / "again.jsonl"], folder / "again", size=1, sample_rate=sample_rate)
    return folder / "again"


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_recording_in_two_folders_of_shards_is_told_and_one_of_them_left_out(
    streamed: Callable[..., Recipe],
    tiny_manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_once: int,
) -> None:
    recipe = streamed(at_once, epochs=1)
    train = (*recipe.data.train, Source(str(some_again(tiny_manifest, tmp_path)), 2))
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=train, validation=train[:1]))
    fit(recipe, tmp_path / "kept")
    said = capsys.readouterr().err
    assert "10 utterances" in said and "2 × duplicate; kept as they are" in said
    run = loop.begin(recipe, tmp_path / "run", torch.device("cpu"), skip_bad=True)
    assert Counter(texts_of(run, 0)) == Counter(u.text for u in read_manifest(tiny_manifest))


def test_recordings_hashed_at_several_rates_are_told(
    streamed: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    recipe = streamed(epochs=1)
    slow = Source(str(some_again(tiny_manifest, tmp_path, 8000)))
    told = "data: recordings were hashed at 8000 and 16000 Hz"
    for train, validation in [((*recipe.data.train, slow), recipe.data.train), ((slow,), recipe.data.validation)]:
        data = dataclasses.replace(recipe.data, train=train, validation=validation)
        run = loop.begin(dataclasses.replace(recipe, data=data), tmp_path / "run", torch.device("cpu"))
        assert told in loop.opening(run) and "--sample-rate 16000" in loop.opening(run)
    alone = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=(slow,), validation=(slow,)))
    assert "were hashed" not in loop.opening(loop.begin(alone, tmp_path / "run", torch.device("cpu")))


def test_shards_serve_for_validation(tiny_recipe: Callable[..., Recipe], shards: Path, tmp_path: Path) -> None:
    run = loop.begin(tiny_recipe(), tmp_path, torch.device("cpu"))
    data = dataclasses.replace(run.recipe.data, validation=(Source(str(shards)),))
    corpus = Corpus(data.validation, data, run.recipe.features, tmp_path)
    scores = [evaluate(run.model, each, run.device)["all"] for each in (run.validation, corpus)]
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=1e-5)
    assert np.isfinite(scores[0].loss)


def test_shards_beside_a_manifest_are_refused(
    streamed: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    recipe = streamed(epochs=1)
    train = (*recipe.data.train, Source(str(tiny_manifest)))
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, train=train))
    with pytest.raises(RecipeError, match="make shards of it, too") as caught:
        fit(recipe, tmp_path)
    one_sentence(str(caught.value))


def test_shards_that_became_fewer_stop_a_run_that_stands_among_them(
    streamed: Callable[..., Recipe], tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    recipe = streamed(epochs=2)
    run = loop.begin(recipe, tmp_path, torch.device("cpu"))
    run.position.group = 4  # of 4
    loop.save(run, "last")
    with pytest.raises(RecipeError, match="the data have changed") as caught:
        fit(recipe, tmp_path)
    one_sentence(str(caught.value))
