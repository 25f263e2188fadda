from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_export.check import add_check
from asr_export.tune import MOST_TICKS, Point, Scale, Width, search, surface, tune
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.verify import read_check


@pytest.fixture
def bundle(tone_bundle: Path, arpa: Path, tmp_path: Path) -> Path:
    """The tone model with a language model that prefers "cat", and an alpha that is far too high for "cut"."""
    path = tmp_path / "tones"
    shutil.copytree(tone_bundle, path)
    file = NewFile(source=arpa, role="language_model")
    update_bundle(path, [file], decoder={"alpha": 4.0, "beta": 1.0, "beam_size": 20})
    return path


@pytest.fixture
def manifest(spell: Callable[[str], np.ndarray], tmp_path: Path) -> Path:
    """Recordings of "cat" and of a "cut" that is nearly a "cat": the fewer errors, the lower alpha is."""
    nearly = (0.94 * spell("cat") + 1.06 * spell("cut")).astype(np.float32)
    rows = []
    for name, samples, text in (("a", spell("cat"), "cat"), ("b", nearly, "cut")):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, "FLOAT")
        rows.append(json.dumps({"audio": f"{name}.wav", "text": text}))
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    return tmp_path / "m.jsonl"


def asr_export(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from asr_export.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


WIDTH = Width(20, 12.0, -7.0)


def made(alpha: float, beta: float, errors: float, width: Width = WIDTH) -> Point:
    return Point(alpha, beta, width, (round(errors), 0), 0, 10000)


def test_the_search_finds_the_bottom_of_a_bowl() -> None:
    def bowl(alpha: float, beta: float) -> Point:
        return made(alpha, beta, 1000 * ((alpha - 0.68) ** 2 + (0.3 * (beta - 1.7)) ** 2))

    best = search(bowl(0.9, 0.5), bowl)
    assert abs(best.alpha - 0.68) <= 0.075
    assert abs(best.beta - 1.7) <= 0.25


def test_the_search_follows_a_valley_out_of_its_grid() -> None:
    def valley(alpha: float, beta: float) -> Point:
        return made(alpha, beta, 1000 * ((alpha - 2.1) ** 2 + (beta + 2.5 * alpha - 2.75) ** 2))

    best = search(valley(0.9, 0.5), valley)
    assert abs(best.alpha - 2.1) <= 0.15
    assert abs(best.beta + 2.5) <= 0.5


def test_the_weight_of_the_language_model_is_never_negative() -> None:
    assert search(made(0.9, 0.5, 9999), lambda alpha, beta: made(alpha, beta, 1000 * (alpha + 1) ** 2)).alpha == 0


@given(st.floats(0, 3), st.floats(-4, 4), st.integers(0, 2**32))
def test_the_bundles_own_settings_stay_unless_others_make_fewer_errors(alpha: float, beta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = made(alpha, beta, 5)
    best = search(own, lambda alpha, beta: made(alpha, beta, rng.integers(4, 9)))
    assert best is own or best.rank < own.rank
    assert search(own, lambda alpha, beta: made(alpha, beta, 5)) is own


def test_alpha_and_beta_follow_the_width_that_was_chosen(
    bundle: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(_: Bundle, _emissions: object, alpha: float, beta: float, width: Width, _threads: int) -> Point:
        best = 0.9 if width.beam_size == 20 else 1.2
        return made(alpha, beta, 1000 * ((alpha - best) ** 2 + beta**2) + 100 * (width.beam_size == 20), width)

    monkeypatch.setattr("asr_export.tune.measure", shifted)
    best = tune(Bundle.load(bundle), manifest, {"beam_size": (40,)}).best
    assert (best.alpha, best.beta, best.width.beam_size) == (pytest.approx(1.2), 0, 40)


def test_tuning_lowers_the_errors_and_prefers_the_smaller_beam(bundle: Path, manifest: Path) -> None:
    tuned = tune(Bundle.load(bundle), manifest, {"beam_size": (40, 10), "token_floor": (-9.0, -6.0)})
    assert (tuned.points[0].wer, tuned.best.wer) == (0.5, 0.0)
    assert tuned.best.alpha < 4
    assert tuned.settings["beam_size"] == 10
    assert tuned.settings["token_floor"] == -6.0


def test_what_makes_more_errors_is_tried_and_left(bundle: Path, manifest: Path) -> None:
    tuned = tune(Bundle.load(bundle), manifest, {"token_floor": (-0.01,), "beam_size": (40,)})
    assert max(point.wer for point in tuned.points if point.width.token_floor == -0.01) > tuned.best.wer == 0.0
    assert (tuned.settings["token_floor"], tuned.settings["beam_size"]) == (-7.0, 20)


def test_the_settings_go_into_a_new_bundle_with_a_picture(bundle: Path, manifest: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "tuned.asr", tmp_path / "surface.svg"
    result = asr_export("tune", bundle, manifest, "--out", out, "--picture", picture)
    assert result.returncode == 0, result.stderr
    assert "before: WER 50.00 % (alpha 4, beta 1)" in result.stdout
    made = Bundle.load(out)
    assert made.decoder["alpha"] < 4
    assert made.provenance["tune"]["wer"] == 0
    assert Bundle.load(bundle).decoder["alpha"] == 4.0
    discs = ElementTree.fromstring(picture.read_text()).findall("{http://www.w3.org/2000/svg}circle")
    assert len(discs) == made.provenance["tune"]["settings_tried"]


def test_the_picture_compares_what_the_bundles_own_search_makes(bundle: Path, manifest: Path) -> None:
    tuned = tune(Bundle.load(bundle), manifest, {"beam_size": (40, 10)})
    picture = ElementTree.fromstring(surface(tuned))
    discs = picture.findall("{http://www.w3.org/2000/svg}circle")
    assert len(discs) == sum(point.width.beam_size == 20 for point in tuned.points) + 1
    assert [disc.attrib["stroke"] == "#d62728" for disc in discs] == [False] * (len(discs) - 1) + [True]
    assert "beam 20, threshold" in picture[1].text
    assert "ringed in red: beam 10, threshold" in picture[1].text


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_ticks_lie_between_the_values_and_have_room(values: list[float]) -> None:
    scale = Scale(values, 0.3, 0.3, 0, 100)
    assert len(scale.ticks) <= MOST_TICKS + 1
    assert all(-0.1 <= scale.pixel(tick) <= 100.1 for tick in scale.ticks)


def test_the_check_that_a_bundle_carries_follows_its_settings(
    bundle: Path, manifest: Path, spell: Callable[[str], np.ndarray]
) -> None:
    nearly = (0.94 * spell("cat") + 1.06 * spell("cut")).astype(np.float32)
    before = read_check(add_check(bundle, [nearly])).utterances[0].text
    assert asr_export("tune", bundle, manifest, "--force").returncode == 0
    assert read_check(Bundle.load(bundle)).utterances[0].text != before
    assert asr_export("verify", bundle).returncode == 0


def test_the_bundle_itself_changes_by_force_only(bundle: Path, manifest: Path) -> None:
    assert "nothing is written" in asr_export("tune", bundle, manifest).stdout
    assert Bundle.load(bundle).decoder["alpha"] == 4.0
    assert asr_export("tune", bundle, manifest, "--force").returncode == 0
    assert Bundle.load(bundle).decoder["alpha"] < 4


def test_what_cannot_be_tuned_is_one_sentence(
    tone_bundle: Path, bundle: Path, manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    for arguments, said in (
        ((tone_bundle, manifest), "no language model"),
        ((bundle, tmp_path / "none.jsonl"), "none.jsonl"),
        ((bundle, manifest, "--out", bundle), "already"),
    ):
        result = asr_export("tune", *arguments)
        assert result.returncode == 1
        one_sentence(result.stderr)
        assert said in result.stderr
