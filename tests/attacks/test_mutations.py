"""Five hundred damaged recordings and bundles: each gives a text or one sentence; nothing crashes, hangs or is lost.

Damage is drawn at random from fixed seeds. What is damaged runs in processes of its own, many files in each, so that
a crash or a hang is seen and named.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPTS = Path(sys.executable).parent
HANG = 120  # seconds for a process with many files, each of which takes some milliseconds

CONTAINERS: dict[str, dict[str, str]] = {
    "wav": {},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "adpcm.wav": {"format": "WAV", "subtype": "MS_ADPCM"},
    "flac": {},
    "ogg": {"subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "aiff": {},
    "au": {},
    "caf": {},
}
EACH = 37  # of ten containers: 370 recordings


def damaged(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to three faults: bytes changed, anywhere or in the header, or a piece lost, doubled or blank."""
    mutant = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["header", "header", "byte", "cut", "lose", "double", "blank", "number"])
        place, length = draw.randrange(len(mutant) or 1), draw.randint(1, 300)
        if kind == "header":
            mutant[draw.randrange(min(len(mutant), 100))] = draw.randrange(256)
        elif kind == "byte":
            mutant[place] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del mutant[max(place, 1) :]
        elif kind == "lose":
            del mutant[max(place, 1) : place + length]
        elif kind == "double":
            mutant[place:place] = mutant[place : place + length]
        elif kind == "blank":
            mutant[place : place + length] = bytes(len(mutant[place : place + length]))
        else:  # a number at one of its limits, where headers have sizes and counts
            near = draw.randrange(min(len(mutant), 60))
            mutant[near : near + 4] = draw.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"])
    return bytes(mutant)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_damaged_recording_is_one_line_and_the_others_come_out(
    container: str, tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    draw = random.Random(container)
    sound = io.BytesIO()
    options = {"format": container.upper(), **CONTAINERS[container]}
    soundfile.write(sound, spell("a cat sat"), 16000, **options)
    names = [f"{number:02}.{container}" for number in range(EACH)]
    for name in names:
        (tmp_path / name).write_bytes(damaged(sound.getvalue(), draw))
    (tmp_path / f"whole.{container}").write_bytes(sound.getvalue())
    command = [SCRIPTS / "asr-run", "--model", tone_bundle, "--no-lm", "--quiet", *names, f"whole.{container}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=HANG, check=False)
    said, told = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert done.returncode in (0, 1), (done.returncode, told)
    assert "Traceback" not in told
    failed = [line for line in told.splitlines() if line.startswith("asr-run: ")]  # libmpg123 has lines of its own
    texts = [line.partition("\t")[0] for line in said.splitlines()]
    assert [name for name in names if sum(name in line for line in failed) + texts.count(name) != 1] == []
    assert said.splitlines()[-1] == f"whole.{container}\ta cat sat"
    assert failed, "the damage did not harm any"


def test_a_damaged_bundle_is_refused_in_one_sentence_or_works(tone_bundle: Path, tmp_path: Path) -> None:
    """130: zips damaged anywhere, manifests with other values, models whose checksums fit their damage."""
    draw = random.Random(0)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(tone_bundle.iterdir()):
            archive.write(file, file.name)
    paths = []
    for number in range(130):
        path = tmp_path / f"{number:03}"
        if number % 3 == 0:
            path = path.with_suffix(".asr")
            path.write_bytes(damaged(zipped.getvalue(), draw))
        else:
            path.mkdir()
            model, manifest = (tone_bundle / "model.onnx").read_bytes(), (tone_bundle / "bundle.json").read_text()
            if number % 3 == 1:
                model = damaged(model, draw)
            content = json.loads(manifest)
            content["files"][0] |= {"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
            if number % 3 == 2:
                change(content, draw)
            (path / "model.onnx").write_bytes(model)
            (path / "bundle.json").write_text(json.dumps(content))
        paths.append(str(path))
    command = [sys.executable, "-c", OPEN_ALL, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    told = [line for line in done.stdout.splitlines() if line in ("worked", "refused")]
    assert done.returncode == 0, (done.returncode, paths[len(told)], done.stderr)
    assert len(told) == len(paths)
    assert 0 < sum(line == "worked" for line in told) < len(paths)


# A line for each bundle at once, so that a crash shows where. All else than an AsrError of one line is an exception.
OPEN_ALL = """
import sys
import numpy as np
import asr_runtime
for path in sys.argv[1:]:
    try:
        asr_runtime.load(path, threads=1).transcribe(np.zeros(8000, np.float32), 16000)
        print("worked", flush=True)
    except asr_runtime.AsrError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        print("refused", flush=True)
"""

VALUES = [None, True, -1, 0, 1e9, 2**70, 0.0401, "", "\x00", "../x", "é" * 1000, [], [1], {}, {"a": {}}, ["a", "a"]]


def change(content: object, draw: random.Random) -> None:
    """Put another value at a random place of a JSON object, or take away what is there."""
    at = content
    while True:
        assert isinstance(at, dict | list)
        key = draw.choice([*at] if isinstance(at, dict) else range(len(at)))  # type: ignore[index]
        inner = at[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
            at = inner
            continue
        if draw.random() < 0.3:
            del at[key]
        else:
            at[key] = draw.choice(VALUES)
        return
