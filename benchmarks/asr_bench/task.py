"""What the scenarios of speed have in common: a bundle, recordings with text, options of the decoder, rounds."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_bench.machine import Meanwhile, machine
from asr_bench.manifest import Utterance, durations, read_manifest
from asr_bench.report import describe_bundle
from asr_bench.results import Point
from asr_bench.systems import Entry, Setting
from asr_runtime.bundle import Bundle


@dataclass(frozen=True)
class Task:
    """A measurement: `seconds` are those of each recording, `pairs` what is measured at which settings."""

    bundle: Path
    manifest: Path | None
    utterances: Sequence[Utterance]
    seconds: Sequence[float]
    options: Mapping[str, Any]
    rounds: int
    pairs: Sequence[tuple[Entry, Setting]] = ()
    machine: Mapping[str, Any] = field(default_factory=machine)
    meanwhile: Meanwhile = field(default_factory=Meanwhile)
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(
        cls,
        bundle: Path,
        manifest: Path | None,
        files: int,
        options: Mapping[str, Any],
        rounds: int,
        pairs: Sequence[tuple[Entry, Setting]] = (),
    ) -> Task:
        """The first `files` of a manifest, if any; raises RecipeError or AudioError where it cannot be read."""
        utterances = read_manifest(manifest)[:files] if manifest else []
        return cls(bundle, manifest, utterances, durations(utterances), options, rounds, pairs)

    @property
    def files(self) -> list[str]:
        """The recordings' paths, for JSON."""
        return [str(utterance.audio) for utterance in self.utterances]

    def result(self, scenario: str, points: Sequence[Point], **more: Any) -> dict[str, Any]:
        """The result for JSON; what has the same `session` was measured in turns, round by round."""
        return {
            "scenario": scenario,
            "session": self.session,
            "machine": {**self.machine, "cores_of_others": self.meanwhile.cores()},
            "bundle": describe_bundle(Bundle.load(self.bundle)),
            "manifest": self.manifest.name if self.manifest else None,
            "files": len(self.utterances),
            "audio_seconds": round(sum(self.seconds), 1),
            "rounds": self.rounds,
            "options": dict(self.options),
            **more,
            "points": list(points),
        }

    def told(self, number: int, setting: Mapping[str, Any], said: str) -> None:
        """A line of progress on standard error."""
        name = ", ".join(f"{key} {value}" for key, value in setting.items() if value != "")
        print(f"asr-bench: round {number + 1} of {self.rounds}, {name}: {said}", file=sys.stderr)
