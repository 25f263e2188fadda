from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from asr_training import loop
from asr_training.evaluate import Recognised
from asr_training.page import aligned, png, write_page
from asr_training.recipe import Recipe
from asr_training.report import Row


def test_the_page_holds_curves_confusions_and_utterances_and_loads_nothing(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    corpus = loop.begin(tiny_recipe(), tmp_path, torch.device("cpu")).validation
    rows = [Row(e, e, 1.0, 1.0, 2.0 / e, 3.0 / e, {"all": 1 / e}, {"all": 0.5 / e}) for e in (1, 2, 3)]
    rows[1] = dataclasses.replace(rows[1], train_loss=math.nan)
    texts = [u.text for u in corpus.utterances]
    texts[0], texts[1] = "a bat sat", "<b>"
    write_page(tmp_path / "report.html", "mine & yours", rows, corpus, [Recognised(text, 0.0) for text in texts])
    page = (tmp_path / "report.html").read_text()
    HTMLParser().feed(page)
    assert "mine &amp; yours" in page
    assert page.count("<polyline") == 4
    assert page.count("<circle") == 11  # none for what is no number
    assert "nan," not in page and ",nan" not in page
    assert "<tr><td>c</td><td>b</td><td>1</td></tr>" in page
    assert page.count("data:image/png;base64,") == 16
    assert "&lt;" in page and "<b>" not in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    names = [float(x) for x in re.findall(r'<text x="([0-9.]+)" y="[0-9]+" fill', page)]
    assert len(names) == 4 and all(b - a > 100 for a, b in (names[:2], names[2:]))  # none is written over another
    for mark in ("replace", "delete", "insert"):
        assert f'class="{mark}"' in page.split("<h2>The best")[0]
    worst = page.split("The worst 8 utterances")[1]
    assert worst.index("1.flac") < worst.index("0.flac") < worst.index("5.flac")


@given(st.text("ab ", max_size=8), st.text("ab ", max_size=8))
def test_both_texts_are_equally_wide_and_whole(spoken: str, recognised: str) -> None:
    above, below = (re.sub("<[^>]*>", "", text) for text in aligned(spoken, recognised))
    assert len(above) == len(below)
    assert (above.replace("·", ""), below.replace("·", "")) == (spoken, recognised)


def test_a_picture_is_a_png_that_others_read() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(grey)))), grey)
