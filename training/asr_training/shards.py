"""Shards of speech with text: tar files in WebDataset's layout, each with an index beside it.

A folder of shards holds `shards.json` (what there is, written last), and for each shard `N.tar`, whose members are
`KEY.flac` (or another kind of audio) and `KEY.json` with text, speaker and source, and `N.jsonl`, a line for each
utterance. The index says where in the tar file the audio lies and what is worth knowing of it, so that batches of like
lengths can be chosen, and their recordings read, without reading the others.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_runtime.errors import RecipeError
from asr_training.manifest import Utterance, read_lines
from asr_training.text_file import write_whole

FORMAT = 1
INDEX = "shards.json"


@dataclass(frozen=True)
class Recording:
    """Where the audio of an utterance lies in a shard, and what was noticed when it was read."""

    offset: int  # bytes
    size: int  # bytes
    samples: int  # at `rate` hertz
    rate: int
    peak: float  # of full scale
    digest: str  # of the samples at `rate`


@dataclass(frozen=True)
class ShardedUtterance(Utterance):
    """An utterance whose audio is a member of a shard; `audio` is the shard's path with the member's name."""

    recording: Recording = dataclasses.field(default=Recording(0, 0, 0, 1, 0.0, ""))

    def read(self) -> bytes:
        """The audio file; raises RecipeError where the shard is shorter than its index says."""
        try:
            with self.audio.parent.open("rb") as shard:
                shard.seek(self.recording.offset)
                content = shard.read(self.recording.size)
        except OSError as error:
            raise RecipeError(f"cannot read {self.audio.parent} ({error}); bring the shard back") from None
        if len(content) < self.recording.size:
            raise RecipeError(f"{self.audio.parent} has been cut off since it was made; make the shards anew")
        return content


@dataclass(frozen=True)
class Prepared:
    """An utterance to put into a shard: its audio file as it is, and what was noticed when it was read."""

    utterance: Utterance
    content: bytes
    recording: Recording  # its offset is not known yet


def write_shard(path: Path, first: int, items: Iterable[Prepared]) -> dict[str, Any]:
    """Write a shard and its index; keys count on from `first`. Returns its line of `shards.json`."""
    rows = []
    part = path.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, item in enumerate(items, first):
            utterance, recording = item.utterance, item.recording
            audio = f"{key:09d}{utterance.audio.suffix.lower() or '.audio'}"
            said = {"text": utterance.text, "speaker": utterance.speaker, "source": utterance.source}
            about = {**said, "duration": round(recording.samples / recording.rate, 3)}
            add(tar, audio, item.content)
            add(tar, f"{key:09d}.json", json.dumps(about, ensure_ascii=False).encode())
            rows.append({"audio": audio, **said, "line": utterance.where, **dataclasses.asdict(recording)})
    with tarfile.open(part) as tar:
        offsets = {member.name: member.offset_data for member in tar}
    lines = [json.dumps({**row, "offset": offsets[row["audio"]]}, ensure_ascii=False) + "\n" for row in rows]
    path.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")
    part.replace(path)
    seconds = sum(row["samples"] / row["rate"] for row in rows)
    return {"shard": path.name, "bytes": path.stat().st_size, "utterances": len(rows), "seconds": round(seconds, 3)}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member that is the same whenever and by whomever it is written."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_index(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Write `shards.json`, which makes a folder one of shards."""
    write_whole(folder / INDEX, json.dumps({"format": FORMAT, "shards": shards}, indent=1))


def is_sharded(path: Path) -> bool:
    """Whether a source of a recipe is a folder of shards, or one shard."""
    return path.suffix == ".tar" or (path / INDEX).is_file()


def list_shards(path: Path) -> list[Path]:
    """The shards of a folder; raises RecipeError where one is missing or has another size than when it was made."""
    if path.suffix == ".tar":
        return [path]
    index = path / INDEX
    try:
        table = json.loads(index.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise RecipeError(f"{index} is of format {table['format']!r}, wanted {FORMAT}; update asr-deploy")
        sizes = {path / shard["shard"]: int(shard["bytes"]) for shard in table["shards"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"cannot read {index} ({error}); make the shards anew with asr-train prepare") from None
    for shard, size in sizes.items():
        found = shard.stat().st_size if shard.is_file() else -1
        if found != size:
            got = "is missing" if found < 0 else f"has {found} bytes, wanted {size}"
            raise RecipeError(f"the shard {shard} {got}; bring it back or make the shards anew with asr-train prepare")
    return list(sizes)


def read_shard(shard: Path) -> Iterator[ShardedUtterance]:
    """The utterances of a shard, by its index; raises RecipeError for an index that is missing or damaged."""
    index = shard.with_suffix(".jsonl")
    if not index.is_file():
        raise RecipeError(f"the shard {shard} has no index {index.name} beside it; make one with asr-train prepare")
    for where, line in read_lines(index):
        try:
            row = json.loads(line)
            recording = Recording(**{field.name: row[field.name] for field in dataclasses.fields(Recording)})
            place = f"{shard}, {row['audio']} ({row['line']})"
            text, source, speaker = (str(row[key]) for key in ("text", "source", "speaker"))
            yield ShardedUtterance(shard / row["audio"], text, place, source, speaker, recording=recording)
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"{where}: no line of a shard's index ({error}); make the shards anew") from None


def read_shards(path: Path) -> list[ShardedUtterance]:
    """The utterances of a folder of shards, or of one shard."""
    return [utterance for shard in list_shards(path) for utterance in read_shard(shard)]
