"""The decoders that are compared: their settings, and each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Timer
from typing import Any

from asr_runtime.decoder import BeamConfig
from asr_runtime.errors import DecoderError

WORKER = Path(__file__).parent / "peers" / "worker.py"
PATIENCE = 600.0  # seconds that a decoder has for one answer
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DecoderFailed(DecoderError):
    """A decoder that ended or raised an error while it was measured."""


@dataclass(frozen=True)
class Contestant:
    """A decoder with settings: `name` in the result, its `peer` as installed, the `module` of peers/ that knows it.

    `weights` are settings of the language model, `pruning` of the search; both were tuned on other utterances of the
    simulated emissions at beam 100 (alpha weighs the natural logarithm, beta is added for each word).
    """

    name: str
    peer: str
    module: str
    package: str
    weights: Mapping[str, Any]
    pruning: Mapping[str, Any]
    python: str = sys.executable
    library: str = ""  # path of one that is a C library

    @property
    def distribution(self) -> str:
        """What its worker asks for its version."""
        return self.library or ("asr-deploy" if self.peer == "ours" else self.peer)

    def settings(self, language_model: bool) -> dict[str, Any]:
        """What the decoder is given beside its beam."""
        settings = {**self.pruning, **(self.weights if language_model else {})}
        if self.library:
            settings["library"] = self.library
        # Our bonus per word pays for the language model's price of words; the others' belongs to their models.
        return {"beta": 0.0, **settings} if self.peer == "ours" and not language_model else settings

    def stated(self, language_model: bool) -> dict[str, Any]:
        """The settings for the result; ours with the defaults, since these change between versions."""
        settings = self.settings(language_model)
        settings.pop("library", None)  # which is known by its version
        if self.peer == "ours":
            settings = asdict(BeamConfig(**settings))
            del settings["beam_size"], settings["hot_words"]
        # JSON has no infinities.
        return {key: str(value) if value in (float("inf"), -float("inf")) else value for key, value in settings.items()}


LIBRARY = "library"  # the peer that is named by a path, not by the Python that has it
_DEEPSPEECH = {"cutoff_prob": 0.9995, "cutoff_top_n": 40}
_PYCTC = {"token_min_logp": -5.0, "beam_prune_logp": -10.0}
_FLASHLIGHT = "flashlight.lib.text.decoder"
KNOWN = (
    Contestant("ours", "ours", "ours", "asr_runtime", {}, {}),
    # For small beams; chosen on emissions kept for tuning (docs/decoder.md).
    Contestant("ours tight", "ours", "ours", "asr_runtime", {}, {"beam_threshold": 9.0}),
    Contestant(
        "ds_ctcdecoder", "ds_ctcdecoder", "deepspeech", "ds_ctcdecoder", {"alpha": 0.7, "beta": 3.5}, _DEEPSPEECH
    ),
    Contestant(
        "flashlight-text",
        "flashlight-text",
        "flashlight_text",
        _FLASHLIGHT,
        {"alpha": 0.9, "beta": 0.5},
        {"beam_size_token": 8, "beam_threshold": 20.0},
    ),
    Contestant(
        "flashlight-text tight",
        "flashlight-text",
        "flashlight_text",
        _FLASHLIGHT,
        {"alpha": 0.9, "beta": 1.0},
        {"beam_size_token": 8, "beam_threshold": 14.0},
    ),
    Contestant("pyctcdecode", "pyctcdecode", "pyctc", "pyctcdecode", {"alpha": 0.6, "beta": 7.0}, _PYCTC),
    Contestant(
        "ctc-beam-decoder", "ctc-beam-decoder", "pyctc", "ctc_beam_decoder", {"alpha": 0.6, "beta": 7.0}, _PYCTC
    ),
    Contestant(
        LIBRARY,
        LIBRARY,
        "c_library",
        "ctypes",
        {"alpha": 1.1, "beta": 3.0},
        {"token_floor": -7.0, "beam_threshold": 14.0},
    ),
)


def choose(peers: Sequence[str], changes: Sequence[str], files: Mapping[str, Path]) -> list[Contestant]:
    """Ours and `peers` (NAME, NAME=PYTHON or library=PATH; by default all that can be imported) with `changes`.

    Raises DecoderError for what is not known, and where ds_ctcdecoder is wanted but has no scorer among `files`.
    """
    pythons = {"ours": sys.executable, **dict(map(_peer, peers))}
    unable = "ds_ctcdecoder" if "lm" in files and "scorer" not in files else None
    if unable in pythons:
        raise DecoderError(f"{unable} has no language model; give it as --scorer, or leave this peer out.")
    if not peers:
        found = [known.peer for known in KNOWN if known.peer not in (unable, LIBRARY) and _importable(known.package)]
        pythons |= dict.fromkeys(found, sys.executable)
    chosen = [_at(known, pythons[known.peer]) for known in KNOWN if known.peer in pythons]
    for change in changes:
        name, _, values = change.partition(":")
        if name not in (names := [contestant.name for contestant in chosen]):
            raise DecoderError(f"got settings for {name!r}; wanted NAME:key=value,… with one of {', '.join(names)}.")
        chosen = [_changed(one, values) if one.name == name else one for one in chosen]
    return chosen


def check_files(lm: Path | None, words: Path | None, scorer: Path | None) -> dict[str, Path]:
    """The files of the language model by role; none without; raises DecoderError where one is missing."""
    files = {role: path for role, path in (("lm", lm), ("words", words), ("scorer", scorer)) if path}
    if files and not {"lm", "words"} <= files.keys():
        raise DecoderError(f"got {', '.join(f'--{role}' for role in files)}; wanted --lm and --words, or none of them.")
    for role, path in files.items():
        if not path.is_file():
            raise DecoderError(f"{path}: there is no such file; give another as --{role}.")
    return files


def _peer(peer: str) -> tuple[str, str]:
    name, _, python = peer.partition("=")
    known = dict.fromkeys(contestant.peer for contestant in KNOWN)
    if name not in known:
        raise DecoderError(f"got the decoder {name!r}; wanted one of {', '.join(known)}.")
    return name, python or sys.executable


def _at(contestant: Contestant, place: str) -> Contestant:
    """By its Python, or its library's path."""
    if contestant.peer != LIBRARY:
        return replace(contestant, python=place)
    path = Path(place)
    if place == sys.executable or not path.is_file():
        raise DecoderError(f"got no file of a C library; wanted {LIBRARY}=PATH.")
    return replace(contestant, library=str(path.resolve()))


def _importable(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the packages around it
        return False


def _changed(contestant: Contestant, values: str) -> Contestant:
    known: dict[str, Any] = {**contestant.pruning, **contestant.weights}
    if contestant.peer == "ours":
        known = {item.name: item for item in fields(BeamConfig) if item.name not in ("beam_size", "hot_words")}
    changes = {}
    for pair in values.split(","):
        key, _, text = pair.partition("=")
        if key not in known:
            raise DecoderError(f"{contestant.name} has no setting {key!r}; it has {', '.join(known)}.")
        changes[key] = _number(contestant.name, key, text)
    if contestant.peer == "ours":
        BeamConfig(**{**contestant.pruning, **changes})  # raises for values that cannot be
    weights = {key: changes.get(key, value) for key, value in contestant.weights.items()}
    rest = {key: value for key, value in changes.items() if key not in weights}
    return replace(contestant, weights=weights, pruning={**contestant.pruning, **rest})


def _number(name: str, key: str, text: str) -> bool | int | float:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise DecoderError(f"got {text!r} for {name}'s {key}; wanted a number, true or false.")


class Worker:
    """A contestant's process; it has loaded its models when this is made, which raises DecoderError where it cannot."""

    def __init__(
        self,
        contestant: Contestant,
        tokens: Sequence[str],
        files: Mapping[str, Path],
        emissions: Path,
        beam: int,
        patience: float = PATIENCE,
    ) -> None:
        self.name, self.emissions, self._patience = contestant.name, str(emissions), patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [contestant.python, str(WORKER), contestant.module, contestant.package, contestant.distribution]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                env={**os.environ, **ONE_THREAD},
            )
        except OSError as error:
            self._errors.close()
            raise DecoderError(
                f"{self.name}: {contestant.python} cannot be run ({error.strerror}); name its Python."
            ) from None
        try:
            self.loaded = self._ask(
                op="load",
                tokens=list(tokens),
                files={role: str(path) for role, path in files.items()},
                settings=contestant.settings("lm" in files),
                beam=beam,
            )
        except DecoderFailed:
            self.close()
            raise

    def decode(self, beam: int, pieces: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Texts, CPU nanoseconds and memory for pieces of joined utterances; raises DecoderFailed."""
        return self._ask(op="decode", emissions=self.emissions, beam=beam, pieces=[list(piece) for piece in pieces])

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        late = Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = Timer(self._patience, end)
        timer.start()
        try:
            print(json.dumps(request), file=stdin, flush=True)
            line = stdout.readline() if stdout else ""
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if not line and late.is_set():
            raise DecoderFailed(f"{self.name}: it gave no answer in {self._patience:g} s and was ended.")
        if not line:
            raise DecoderFailed(f"{self.name}: its process ended with code {self._process.wait()}{self._last_words()}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DecoderFailed(f"{self.name}: {answer['error'].rstrip('.')}.")
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" ({said[:200]})" if said else ""

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
