"""The report of a run as one HTML file: curves, confused characters, best and worst utterances. Nothing is loaded."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_training.corpus import Corpus
from asr_training.evaluate import Recognised
from asr_training.report import Row
from asr_training.text_file import write_whole

SHOWN = 20  # utterances at either end
CONFUSIONS = 30
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{max-width:100%}table{border-collapse:collapse}td,th{padding:.1rem .7rem;text-align:right}
.u{border-top:1px solid #ccc;padding:.6rem 0}.u img{width:100%;height:5rem;image-rendering:pixelated}
.t{font-family:ui-monospace,monospace;white-space:pre-wrap}.replace{background:#ffd9a0}.delete{background:#ffb3b3}
.insert{background:#b3d4ff}"""

KEY = """<p>Below, what was spoken stands above what was recognised:
<span class="replace">another character</span>, <span class="delete">a missing one</span>,
<span class="insert">one too many</span>; a · fills a gap.</p>"""


def write_page(path: Path, name: str, rows: Sequence[Row], corpus: Corpus, results: Sequence[Recognised]) -> None:
    """Write the report of the run `name` with what its best weights make of the validation data."""
    order = sorted(range(len(results)), key=lambda i: (rate(corpus.utterances[i].text, results[i].text), i))
    parts = [
        f"<h1>{escape(name)}</h1>",
        curves("loss per character", rows, {"training": [r.train_loss for r in rows], "validation": val_loss(rows)}),
        curves("error rate in per cent", rows, {"words": percent(rows, "wer"), "characters": percent(rows, "cer")}),
        f"<h2>Confused characters</h2>{confusion_table(corpus, results)}",
        KEY,
        f"<h2>The best {min(SHOWN, len(order))} utterances</h2>",
        *(utterance(corpus, index, results[index].text) for index in order[:SHOWN]),
        f"<h2>The worst {min(SHOWN, len(order))} utterances</h2>",
        *(utterance(corpus, index, results[index].text) for index in order[::-1][:SHOWN]),
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style>'
    write_whole(path, "\n".join([head, *parts, "</html>\n"]))


def rate(spoken: str, recognised: str) -> float:
    """The character error rate of one utterance, a share."""
    return Levenshtein.distance(spoken, recognised) / max(1, len(spoken))


def val_loss(rows: Sequence[Row]) -> list[float]:
    """The validation losses."""
    return [row.validation_loss for row in rows]


def percent(rows: Sequence[Row], key: str) -> list[float]:
    """An error rate over all validation data, in per cent."""
    return [100 * float(getattr(row, key)["all"]) for row in rows]


def curves(title: str, rows: Sequence[Row], lines: dict[str, list[float]]) -> str:
    """An SVG of some values over epochs."""
    width, height, left, bottom = 640, 240, 50, 30
    most_x = max((row.epoch for row in rows), default=1) or 1
    most_y = max((value for values in lines.values() for value in values if math.isfinite(value)), default=1) or 1
    drawn = []
    for number, ((name, values), colour) in enumerate(zip(lines.items(), ("#1f77b4", "#d62728"), strict=False)):
        points = [
            (left + (width - left - 10) * row.epoch / most_x, (height - bottom) * (1 - value / most_y) + 5)
            for row, value in zip(rows, values, strict=True)
            if math.isfinite(value)  # it is not where no step had a gradient
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        drawn.append(
            f'<text x="{left + 120 * number}" y="{height - 8}" fill="{colour}">{name}</text>'
        )  # below the axis
    axes = (
        f'<path d="M{left} 5V{height - bottom + 5}H{width - 10}" stroke="#888" fill="none"/>'
        f'<text x="{left - 5}" y="14" text-anchor="end">{most_y:.3g}</text>'
        f'<text x="{left - 5}" y="{height - bottom + 5}" text-anchor="end">0</text>'
        f'<text x="{width - 10}" y="{height - 8}" text-anchor="end">{most_x:.3g} epochs</text>'
    )
    figure = f'<svg viewBox="0 0 {width} {height}" font-size="12" font-family="sans-serif">{axes}{"".join(drawn)}</svg>'
    return f"<h2>{escape(title)}</h2>{figure}"


def confusion_table(corpus: Corpus, results: Sequence[Recognised]) -> str:
    """The most frequent replacements, deletions and insertions of characters, and their counts."""
    counts: Counter[tuple[str, str]] = Counter()
    for spoken, result in zip(corpus.utterances, results, strict=True):
        for edit in Levenshtein.editops(spoken.text, result.text):
            said = spoken.text[edit.src_pos] if edit.tag != "insert" else ""
            heard = result.text[edit.dest_pos] if edit.tag != "delete" else ""
            counts[said, heard] += 1
    rows = [
        f"<tr><td>{shown(spoken)}</td><td>{shown(recognised)}</td><td>{count}</td></tr>"
        for (spoken, recognised), count in counts.most_common(CONFUSIONS)
    ]
    return f"<table><tr><th>spoken</th><th>recognised</th><th>times</th></tr>{''.join(rows)}</table>"


def shown(character: str) -> str:
    """A character as it can be seen: the space and nothing have signs."""
    return escape({"": "∅", " ": "␣"}.get(character, character))


def utterance(corpus: Corpus, index: int, recognised: str) -> str:
    """One utterance: its name, spectrogram, and what was spoken above what was recognised, errors in colour."""
    spoken = corpus.utterances[index]
    above, below = aligned(spoken.text, recognised)
    name = f"{spoken.audio.name}, {100 * rate(spoken.text, recognised):.0f} % of characters wrong"
    picture = base64.b64encode(png(spectrogram(corpus.store[index]))).decode()
    image = f'<img alt="spectrogram" src="data:image/png;base64,{picture}">'
    return f'<div class="u">{escape(name)}{image}<div class="t">{above}\n{below}</div></div>'


def aligned(spoken: str, recognised: str) -> tuple[str, str]:
    """Both texts as HTML of equal width; a replacement, deletion or insertion has its class in both."""
    above, below = "", ""
    for edit in Levenshtein.opcodes(spoken, recognised):
        said, heard = spoken[edit.src_start : edit.src_end], recognised[edit.dest_start : edit.dest_end]
        first, second = (escape(text.ljust(max(len(said), len(heard)), "·")) for text in (said, heard))
        mark = ("", "") if edit.tag == "equal" else (f'<span class="{edit.tag}">', "</span>")
        above, below = above + first.join(mark), below + second.join(mark)
    return above, below


def spectrogram(features: np.ndarray) -> np.ndarray:
    """Mel features [frames, mels] as grey values, uint8 [mels, frames], low frequencies at the bottom, loud dark."""
    values = features.astype(np.float32).T[::-1]
    low, high = np.quantile(values, [0.02, 0.995])
    return np.asarray(255 - 255 * np.clip((values - low) / max(1e-6, high - low), 0, 1)).astype(np.uint8)


def png(grey: np.ndarray) -> bytes:
    """A grey picture, uint8 [rows, columns], as PNG (ISO/IEC 15948)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns = grey.shape
    lines = b"".join(b"\0" + row.tobytes() for row in grey)  # filter 0: none
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
