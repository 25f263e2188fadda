"""Results as one HTML page that needs nothing else: tables from the scenarios' Markdown, pictures inside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from asr_bench import decoder_report, report
from asr_bench.charts import charts
from asr_runtime.errors import AsrError

STYLE = """
:root { color-scheme: light; --line: #d8dce2; --soft: #f5f7f9; --ink: #1b2430; --accent: #b34d00; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", Helvetica, Arial, sans-serif; color: var(--ink); background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; padding-top: .8rem; border-top: 3px solid var(--accent); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { max-width: 62rem; }
nav { background: var(--soft); padding: .6rem 1rem; border-radius: 6px; }
nav a { color: var(--accent); margin-right: 1.2rem; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th { background: var(--soft); text-align: left; vertical-align: bottom; }
th, td { border-bottom: 1px solid var(--line); padding: .28rem .6rem; }
td { white-space: nowrap; }
tbody tr:hover { background: var(--soft); }
svg { width: calc(50% - .9rem); min-width: 30rem; max-width: 100%; height: auto;
  border: 1px solid var(--line); border-radius: 6px; margin: .6rem .4rem .6rem 0; }
.machine { color: #5a6472; font-size: .8rem; }
code { background: var(--soft); padding: 0 .2rem; }
@media print { nav { display: none; } h2 { break-before: page; } }
"""


def read_results(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Results by their file's name; raises AsrError for a file that is none."""
    found = {}
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AsrError(f"{path}: got no JSON ({error}); give results of asr-bench.") from None
        if not isinstance(result, dict) or not {"scenario", "machine"} <= result.keys():
            raise AsrError(f"{path}: got JSON that is no result; give results of asr-bench.")
        found[path.stem] = result
    return found


def markdown_of(name: str, result: dict[str, Any]) -> str:
    """A result as its scenario writes it; raises AsrError for one of another version."""
    try:
        if result["scenario"] == "decoder":
            return decoder_report.markdown(result, name)
        return (report.accuracy_markdown if result["scenario"] == "accuracy" else report.speed_markdown)(result)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise AsrError(f"{name}: the result lacks {error}; measure it again with this version.") from None


def page(results: dict[str, dict[str, Any]]) -> str:
    """The HTML page; raises AsrError for a result of another version."""
    sections = []
    for name, result in results.items():
        # Pictures stand behind the section's first paragraph.
        first, _, rest = "\n".join(blocks(markdown_of(name, result))).partition("</p>")
        pictures = "\n".join(charts(result))
        sections.append(f'<section id="{escape(name)}">{first}</p>\n{pictures}{rest}</section>')
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in results)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>asr-bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n<h1>asr-bench: what was measured</h1>\n<nav>{links}</nav>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def blocks(markdown: str) -> Iterator[str]:
    """The HTML of what reports are written in: headings, paragraphs, tables and code; pictures are left out."""
    lines = [line for line in markdown.split("\n") if not line.startswith("![")]
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            yield _table(list(group))
            continue
        for line in filter(None, group):
            level = len(line) - len(line.lstrip("#"))
            if level:
                yield f"<h{level + 1}>{_inline(line[level:].strip())}</h{level + 1}>"
            else:
                yield f"<p{' class=machine' if '; GPU: ' in line else ''}>{_inline(line)}</p>"


def _table(lines: Sequence[str]) -> str:
    head, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    body = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    titles = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _inline(text: str) -> str:
    plain = escape(text.replace("\\|", "|"), quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", plain)
