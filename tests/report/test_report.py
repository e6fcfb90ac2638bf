import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from curate.errors import RunError
from curate.report import notable
from curate.report.groups import compared
from curate.report.map import flat
from curate.report.model import (
    BadShard,
    Gallery,
    Groups,
    Listed,
    Pair,
    ReportData,
    Sample,
    Score,
    Shown,
    StageStats,
    WhatIf,
)
from curate.report.page import MAX_CONCEPTS, MAX_LISTED, MAX_PAGE, render, render_concept
from curate.schema import DECISION_CONCEPTS

#: Elements that have no end tag.
VOID = {"meta", "link", "br", "img", "input", "hr"}


def concepts(n, example=None):
    rows = [
        {
            "concept": i,
            "n_eligible": 10 * (n - i),
            "d_intra": 0.2 + 0.1 * i / n,
            "d_inter": 0.5,
            "complexity": 0.1 + 0.05 * i / n,
            "probability": 1 / n,
            "target": 3.0,
            "budget": 3 + i % 7,
            "kept": 3 + i % 7,
            "at_cap": i % 11 == 5,
            "at_floor": i % 13 == 4,
        }
        for i in range(n)
    ]
    frame = pl.DataFrame(rows, schema=pl.Schema(pa.schema(DECISION_CONCEPTS)))
    return frame if example is None else frame.with_columns(example=pl.lit(example))


RELIABILITY = {
    "family": "heads", "classes": 10, "seeds": 3, "accuracy_mean": 0.876, "reliability": 0.4,
    "reliability_of_mean": 0.62, "grand_el2n": 0.9,
}  # fmt: skip


def score(name, quantiles):
    found = {"edges": [0.0, 0.5, 1.0], "kept": [8_000, 10_001], "dropped": [30_123, 6_864]}
    return Score(
        name=name,
        means="better",
        quantiles=quantiles,
        n=60_932,
        missing=302,
        cuts=[(0.2, "filter x")],
        **found,
    )


def layout(n):
    return pl.DataFrame(
        {"concept": range(n), "x": [i % 7 - 3.0 for i in range(n)], "y": [i % 5 - 2.0 for i in range(n)]}
    )


def sample(number, text="a dog on a beach"):
    return Sample(
        uid=f"s{number}", shard="a.parquet", row=number, caption=text, label="dog", reason="kept", image=None
    )


def gallery(concept=0):
    shown = [Shown(0, "distance 0.1000")]
    dropped = [Shown(1, "distance 0.2000")]
    lists = [
        Listed(name=name, title=name, nothing="None.", shown=some)
        for name, some in (("hardest_kept", shown), ("easiest_dropped", dropped), ("most_typical", shown))
    ]
    pairs = [Pair(0, 1, "similarity 0.9900")]
    return Gallery(concept=concept, why=("largest",), lists=lists, duplicates=pairs)


def what_if(n):
    sizes = [10 * (n - i) for i in range(n)]
    frame = pl.DataFrame(
        {
            "concept": range(n),
            "size": sizes,
            "complexity": [0.1 + 0.05 * i / n for i in range(n)],
            "now": [1] * n,
        }
    )
    return WhatIf(
        concepts=frame, shares=[0.3], temperatures=[0.1], budgets=np.ones((1, 1, n), np.int64),
        cells=np.array([[[n, 0, n]]]), own=(0, 0), eligible=sum(sizes), of="usable", method="density",
        command="curate select runs/sample",
    )  # fmt: skip


def facts(n_concepts=25, **changes):
    quantiles = {
        "min": -0.081,
        "p05": 0.142,
        "p25": 0.221,
        "median": 0.263,
        "p75": 0.301,
        "p95": 0.352,
        "max": 0.481,
    }
    ordinary = ReportData(
        name="runs/sample",
        rows_in=61_234,
        kept=18_001,
        reasons={
            "over_budget": 36_987,
            "kept": 18_001,
            "near_duplicate": 1_113,
            "filter:clip_score >= 0.2": 4_321,
            "exact_duplicate": 503,
            "no_score:no_caption": 7,
            "unusable:broken_image": 301,
            "unusable:too_large": 1,
        },
        concepts=concepts(n_concepts, example="a dog on a beach"),
        scores=[score("clip_score", quantiles)],
        layout=layout(n_concepts),
        samples=[sample(0), sample(1)],
        typical={i: [0] for i in range(n_concepts)},
        galleries=[gallery()],
        duplicates=[Pair(0, 1, "similarity 0.9900"), Pair(None, 1, "similarity 0.9950")],
        mislabelled=[Shown(1, "predicted cat, noise_prob 0.9000")],
        groups=[Groups(by="class", frame=pl.DataFrame({"group": ["cat"], "rows": [10], "kept": [3]}))],
        correlation=(["a", "b"], [[1.0, -0.5], [-0.5, 1.0]]),
        what_if=what_if(n_concepts),
        weights={"method": "concept", "effective": 9_000.4, "rows": 18_001, "smallest": 0.5, "largest": 4.0},
        reliability=[RELIABILITY],
        stages=[
            StageStats(name="read", seconds=None, rows=61_234, summary="8 shards"),
            StageStats(name="embed", seconds=734.2, rows=60_932, summary="81 rows/s"),
        ],
        warnings=["3 concepts have a single row"],
        bad_shards=[BadShard(shard="in/00012.tar", rows=None, message="truncated after 41 members")],
        recipe="select: {method: density, keep: 0.3}\n",
        versions={"curate": "0.1.0"},
    )
    return replace(ordinary, **changes)


def no_rows():
    empty = pl.DataFrame()
    return facts(
        rows_in=0, kept=0, reasons={}, concepts=empty, scores=[], layout=empty, samples=[], typical={}, galleries=[],
        duplicates=[], mislabelled=[], groups=[], correlation=((), ()), what_if=None, weights={}, reliability=[],
        stages=[], warnings=[], bad_shards=[]
    )  # fmt: skip


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text outside scripts; tags must balance."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.texts).replace("\u00a0", " "))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        if not {"script", "style"} & set(self.open):
            self.texts.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_numbers_appear_exactly():
    text = Page(render(facts())).text
    for number in (
        "61,234",
        "18,001",
        "29.4 %",
        "43,233",
        "70.6 %",
        "of which 302 unusable",
        "36,987",
        "12 min 14 s",
    ):
        assert number in text
    assert "better −0.0810 0.1420 0.2210 0.2630 0.3010 0.3520 0.4810 60,932 302" in text  # noqa: RUF001
    assert "a 1.00 −0.50 b −0.50 1.00" in text  # noqa: RUF001
    assert "Effective sample size 9,000 50.0 % of 18,001 kept rows" in text
    assert "heads 10 3 87.6 % 0.400 0.620 ▲ low 0.900" in text
    assert "cat 10 3 30.0 %" in text
    assert "0 a dog on a beach 250 3 3 1.2 % 0.1000 0.2000 0.5000 1 a dog on a beach 240" in text
    assert "25 concepts, 2 at the cap (every eligible row may stay), 2 at the floor" in text
    assert "reused" in text and "in/00012.tar unknown truncated after 41 members" in text


def test_reasons_stand_in_the_order_of_deciding():
    text = Page(render(facts())).text
    rows = re.findall(
        r"(\S+) (?:[^\d%]+) ([\d,]+) <?[\d.]+ % ([\d,]+)?",
        text.split("Rows left")[1].split("What is left")[0],
    )
    assert [left for *_, left in rows] == [
        "60,933",
        "60,932",
        "60,429",
        "56,108",
        "56,101",
        "54,988",
        "18,001",
        "",
    ]
    assert [n for _, n, _ in rows] == ["301", "1", "503", "4,321", "7", "1,113", "36,987", "18,001"]


@pytest.mark.parametrize(("reasons", "message"), [
    ({"kept": 18_001}, "reasons must add up to 61,234 rows in, got 18,001"),
    ({"kept": 18_000, "over_budget": 43_234}, "reason 'kept' must count 18,001 rows, got 18,000"),
])  # fmt: skip
def test_sums_that_do_not_add_up_are_refused(reasons, message):
    with pytest.raises(RunError, match=message):
        render(facts(reasons=reasons))


def test_the_same_facts_give_the_same_page():
    assert render(facts()) == render(facts())


def test_no_rows():
    html = render(no_rows())
    text = Page(html).text
    assert "No rows were read" in text and "No concepts" in text and "No scores were computed" in text
    assert len(html) < 100_000  # nothing to draw: no drawing script


def test_one_concept_and_nothing_else():
    one = concepts(1).with_columns(complexity=pl.lit(float("nan")), d_inter=pl.lit(None, pl.Float64))
    text = Page(render(facts(n_concepts=1, concepts=one, scores=[], layout=pl.DataFrame()))).text
    assert "1 concept. " in text or "1 concept." in text
    assert "0 10 3 3 30.0 % – 0.2000 –" in text  # noqa: RUF001
    assert text.count("Nothing to draw") == 1 and "No scores were computed" in text


def test_a_concept_without_eligible_rows_has_no_share():
    empty = concepts(2).with_columns(n_eligible=pl.Series([10, 0]), kept=pl.Series([5, 0]))
    text = Page(render(facts(concepts=empty))).text
    assert "1 without eligible rows" in text
    assert "1 0 4 0 – 0.1250" in text  # noqa: RUF001


def test_many_concepts_are_cut_to_the_largest():
    many = concepts(100_000, example="x" * 300).sort("concept", descending=True)
    html = render(facts(concepts=many, layout=layout(MAX_CONCEPTS)))
    page = Page(html)
    assert f"The table shows the {MAX_CONCEPTS:,} largest of 100,000 concepts." in page.text
    shown = [attributes["data-value"] for attributes in page.all("td") if "data-value" in attributes]
    assert shown[:: len(shown) // MAX_CONCEPTS] == [str(10 * (100_000 - i)) for i in range(MAX_CONCEPTS)]
    assert "x" * 300 not in html


def test_long_lists_are_cut():
    many = [f"warning {i}." for i in range(MAX_LISTED + 1)]
    text = Page(render(facts(warnings=many))).text
    assert "201 warnings" in text and "The first 200 of 201." in text
    assert "warning 199." in text and "warning 200." not in text


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "]]><!--<script>",
    '" onload="alert(1)',
    "&amp;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_text(text):
    hostile = facts(
        name=text,
        concepts=concepts(2, example=text),
        reasons={"kept": 18_001, f"filter:{text}": 43_233},
        scores=[replace(facts().scores[0], name=text, means=text, cuts=[(0.1, text)])],
        samples=[replace(sample(0, text), uid=text, shard=text, label=text), sample(1, text)],
        galleries=[replace(gallery(), why=(text,))],
        groups=[Groups(by="class", frame=pl.DataFrame({"group": [text], "rows": [9], "kept": [3]}))],
        correlation=([text, "b"], [[1.0, None], [None, 1.0]]),
        what_if=replace(what_if(2), command=text),
        stages=[StageStats(name=text, seconds=1.0, rows=1, summary=text)],
        warnings=[text],
        bad_shards=[BadShard(shard=text, rows=1, message=text)],
        recipe=f"filter: ['{text}']",
        versions={text: text},
        created=text,
    )
    plain, page = Page(render(facts(concepts=concepts(2)))), Page(render(hostile))
    assert page.text.count(re.sub(r"\s+", " ", text)) >= 13
    assert not page.all("img")
    assert len(page.all("script")) == len(plain.all("script")) == 3
    assert {name for _, attributes in page.elements for name in attributes} <= {
        name for _, attributes in plain.elements for name in attributes
    }


def test_nothing_is_loaded():
    page = Page(render(facts()))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes and "srcset" not in attributes
        assert attributes.get("href", "#").startswith("#")
        assert "url(" not in attributes.get("style", "")
    policy = page.all("meta")[1]["content"]
    nonces = {attributes.get("nonce") for attributes in page.all("script") if "type" not in attributes}
    assert policy.startswith("default-src 'none';") and f"script-src 'nonce-{nonces.pop()}'" in policy
    assert not nonces


def test_structure_for_assistive_technology():
    page = Page(render(facts()))
    assert next(tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")) == "h1"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in attributes for attributes in page.all("th"))
    assert all(attributes["aria-label"] for attributes in page.all("div") if "data-figure" in attributes)
    names = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert len(names) == sum("id" in attributes for _, attributes in page.elements)
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in names
        if attributes.get("href"):
            assert attributes["href"][1:] in names


def test_colours_have_enough_contrast():
    style = re.search(r"<style>(.*?)</style>", render(facts()), re.DOTALL)[1]
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (x / 255 for x in bytes.fromhex(colour[1:]))
        ]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for theme in (light, dark):
        for over in ("page", "warn", "faint"):
            for colour in ("ink", "muted", "kept"):
                low, high = sorted((luminance(theme[colour]), luminance(theme[over])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (colour, over)
        for colour in ("kept", "dropped", "unusable"):
            low, high = sorted((luminance(theme[colour]), luminance(theme["page"])))
            assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_the_page_stays_below_its_limit_and_says_what_is_missing():
    image = "data:image/webp;base64," + "A" * 20_000
    many = [replace(sample(i), image=image) for i in range(1_000)]
    html = render(facts(samples=many))
    assert MAX_PAGE - 25_000 < len(html.encode()) < MAX_PAGE + 1_000
    shown = html.count("data:image/webp")
    assert 300 < shown < 1_000
    assert f"{1_000 - shown:,} samples are shown without their thumbnails" in Page(html).text
    assert "without their thumbnails" not in Page(render(facts())).text


def test_a_page_of_one_concept():
    row = concepts(3).row(2, named=True)
    html = render_concept(
        "runs/x",
        gallery(2),
        row,
        [sample(0, "<b>x</b>"), sample(1)],
        ordered_by="Hard and easy go by el2n.",
        pictures=True,
    )
    page = Page(html)
    assert (
        "Concept 2" in page.text
        and "Hard and easy go by el2n" in page.text
        and "50.0 %, budget 5" in page.text
    )
    assert "<b>x" not in html and "Plotly" not in html and len(html) < 60_000


def test_telling_concepts_come_from_every_ranking_in_turn():
    frame = pl.DataFrame(
        {
            "concept": range(6),
            "n_eligible": [100, 50, 40, 30, 20, 0],
            "complexity": [0.1, 0.1, 0.9, 0.2, 0.1, 2.0],
            "kept": [50, 40, 30, 1, 20, 0],
            "unevenness": [1.0, 1.5, None, 1.1, 3.0, 9.0],
        }
    )
    assert list(notable.notable_concepts(frame, 4)) == [0, 2, 3, 4]
    assert notable.notable_concepts(frame, 4)[4] == ("most uneven",)
    assert sorted(notable.notable_concepts(frame)) == [0, 1, 2, 3, 4]  # never one without rows
    assert notable.notable_concepts(frame.head(0)) == {}
    whole = notable.notable_concepts(frame.with_columns(kept=pl.col("n_eligible")))
    assert "most pruned" not in {why for several in whole.values() for why in several}


def test_groups_shrink_by_much_and_not_by_chance():
    groups = pl.DataFrame(
        {"group": ["most", "few", "half", "gone"], "rows": [1_000, 10, 200, 60], "kept": [500, 0, 70, 0]}
    )
    found = compared(groups)
    assert found.filter("shrunk")["group"].to_list() == ["gone"]
    assert found["group"][0] == "gone" and found["rest"][0] == pytest.approx(570 / 1_210)
    assert compared(groups.head(1))["shrunk"].to_list() == [False]  # there is no rest
    assert compared(groups.head(0)).is_empty()


@pytest.mark.parametrize("k", [0, 1, 2, 3, 40])
def test_the_map_is_the_two_main_directions(k):
    rows = np.random.default_rng(0).standard_normal((k, 8)).astype(np.float32)
    places = flat(rows)
    assert places.shape == (k, 2) and np.isfinite(places).all()
    assert np.array_equal(places, flat(rows))
    if k == 40:  # against the definition: projections on the eigenvectors of the covariance
        values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
        expected = (rows - rows.mean(axis=0)) @ vectors[:, ::-1][:, :2]
        assert np.abs(places) == pytest.approx(np.abs(expected), abs=1e-5)
        assert places.var(axis=0, ddof=1) == pytest.approx(values[::-1][:2], rel=1e-5)
