"""Markdown that Prefect shows: names of runs, conditions and what matters are text, whatever stands in them."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from curate.flows.artifacts import counts_table
from curate.report.model import Matter
from tests.fixtures.hostile import TEXTS


@pytest.mark.parametrize("name", TEXTS)
def test_it_is_text(name):
    text = TEXTS[name]
    counts = {"rows": 3, "kept": 2, "dropped": {f"filter:{text}": 1}, "unusable": {}}
    matters = [Matter(text), Matter(text, f"curate review {text}", warns=True)]
    shown = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(counts_table(f"runs/{text}", counts, matters))
    )
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags <= {"h3", "ul", "li", "p", "strong", "code", "table", "thead", "tbody", "tr", "th", "td"}
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", shown)]
    reason = "".join(char if char.isprintable() else " " for char in f"filter:{text}")
    assert f"dropped: {' '.join(reason.split())}" in cells
    assert len(re.findall("<tr>", shown)) == 4 and len(re.findall("<li>", shown)) == 2
