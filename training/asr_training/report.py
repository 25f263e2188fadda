"""The table of a run: a line for each validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr_training.text_file import write_whole


@dataclass(frozen=True)
class Row:
    """One validation; rates are shares, by source of the validation data, and "all"."""

    epoch: float
    step: int
    audio_hours: float
    minutes: float
    train_loss: float
    validation_loss: float
    wer: dict[str, float]
    cer: dict[str, float]


def format_table(rows: list[Row]) -> str:
    """The rows as aligned text, WER and CER in per cent."""
    sources = list(rows[0].wer) if rows else ["all"]
    head = ["epoch", "step", "audio h", "minutes", "train loss", "val. loss"]
    head += [f"{rate} {source}" for source in sources for rate in ("WER", "CER")]
    lines = [head]
    for row in rows:
        plain = [f"{row.epoch:.2f}", f"{row.step}", f"{row.audio_hours:.1f}", f"{row.minutes:.1f}"]
        plain += [f"{row.train_loss:.3f}", f"{row.validation_loss:.3f}"]
        lines.append(plain + [f"{100 * rates[s]:.1f}" for s in sources for rates in (row.wer, row.cer)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return (
        "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        + "\n"
    )


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the table in place of the file at `path`."""
    write_whole(path, format_table(rows))
