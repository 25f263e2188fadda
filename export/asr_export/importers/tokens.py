"""Lists of tokens as others write them, `vocab.txt` or `tokens.txt`, as a bundle has them: the blank is empty."""

from __future__ import annotations

import re
from pathlib import Path

from asr_export.importers.files import read_text
from asr_runtime.errors import ExportError
from asr_runtime.manifest import MAX_TOKENS

BLANKS = ("<blk>", "<blank>", "[blank]", "<ctc_blank>", "<eps>", "<pad>", "[PAD]")
NUMBERED = re.compile(r"(.*)[ \t]([0-9]{1,9})")


def read_tokens(path: Path, columns: int) -> list[str]:
    """The tokens of a model with so many columns, from lines `token number` or one token a line.

    The blank is the first of `BLANKS` that is there; a list without one that is one short has it behind its end.
    Raises ExportError.
    """
    tokens = in_order(path, lines(path))
    blank = next((tokens.index(name) for name in BLANKS if name in tokens), None)
    if blank is not None:
        tokens[blank] = ""
    elif len(tokens) == columns - 1:
        tokens.append("")
    if len(tokens) != columns:
        raise ExportError(f"{path}: got {len(tokens)} tokens, wanted {columns} as the model has; give its own list.")
    if "" not in tokens:
        raise ExportError(f"{path}: no token is the blank, wanted one named {' or '.join(BLANKS[:3])}; rename it.")
    if twice := next((token for token in tokens if tokens.count(token) > 1), None):
        raise ExportError(f"{path}: the token {twice!r:.80} stands twice; give a list of different tokens.")
    return tokens


def lines(path: Path) -> list[str]:
    """The lines of a small text."""
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file; give the model's list of tokens with --tokens.")
    found = [line.removesuffix("\r") for line in read_text(path).removesuffix("\n").split("\n")]
    if len(found) > MAX_TOKENS:
        raise ExportError(f"{path}: got {len(found)} lines, wanted at most {MAX_TOKENS} tokens.")
    return found


def in_order(path: Path, lines: list[str]) -> list[str]:
    """The tokens by their numbers, if every line has one."""
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if not all(numbered):
        return lines
    places = {int(match[2]): match[1] for match in numbered if match}
    if sorted(places) != list(range(len(lines))):
        raise ExportError(f"{path}: the numbers are not 0 to {len(lines) - 1}, each once; give the model's own list.")
    return [places[i] for i in range(len(lines))]
