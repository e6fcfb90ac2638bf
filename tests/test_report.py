import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pyarrow as pa
import pytest

from curate.errors import RunError
from curate.report.page import MAX_CONCEPTS, MAX_LISTED, BadShard, Facts, StageFacts, render
from curate.schema import DECISION_CONCEPTS

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
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
    ordinary = Facts(
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
        scores=pl.DataFrame([{"score": "clip_score", **quantiles, "n": 60_932, "missing": 302}]),
        distances=pl.DataFrame(
            {
                "bin_start": [0.0, 0.5],
                "bin_stop": [0.5, 1.0],
                "kept": [8_000, 10_001],
                "dropped": [30_123, 6_864],
            }
        ),
        stages=[
            StageFacts(name="read", seconds=None, rows=61_234, summary="8 shards"),
            StageFacts(name="embed", seconds=734.2, rows=60_932, summary="81 rows/s"),
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
        rows_in=0, kept=0, reasons={}, concepts=empty, scores=empty, distances=empty, stages=[], warnings=[], bad_shards=[]
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
    assert "−0.0810 0.1420 0.2210 0.2630 0.3010 0.3520 0.4810 60,932 302" in text  # noqa: RUF001
    assert "0.000 0.500 8,000 30,123 0.500 1.000 10,001 6,864" in text
    assert "0 a dog on a beach 250 3 3 1.2 % 0.1000 0.2000 0.5000 1 a dog on a beach 240" in text
    assert "25 concepts, 2 at the cap (every eligible row may stay), 2 at the floor" in text
    assert "reused" in text and "in/00012.tar unknown truncated after 41 members" in text


def test_reasons_stand_in_the_order_of_deciding():
    text = Page(render(facts())).text
    rows = re.findall(
        r"(\S+) (?:[^\d%]+) ([\d,]+) <?[\d.]+ % ([\d,]+)?", text.split("Rows left")[1].split("Complexity")[0]
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


def test_one_concept_without_distances():
    one = concepts(1).with_columns(complexity=pl.lit(float("nan")), d_inter=pl.lit(None, pl.Float64))
    text = Page(render(facts(concepts=one, distances=pl.DataFrame()))).text
    assert "1 concept. " in text or "1 concept." in text
    assert "0 10 3 3 30.0 % – 0.2000 –" in text  # noqa: RUF001
    assert text.count("Nothing to draw") == 2


def test_a_concept_without_eligible_rows_has_no_share():
    empty = concepts(2).with_columns(n_eligible=pl.Series([10, 0]), kept=pl.Series([5, 0]))
    text = Page(render(facts(concepts=empty))).text
    assert "1 without eligible rows" in text
    assert "1 0 4 0 – 0.1250" in text  # noqa: RUF001


def test_many_concepts_are_cut_to_the_largest():
    html = render(facts(concepts=concepts(100_000, example="x" * 300).sort("concept", descending=True)))
    page = Page(html)
    assert len(html.encode()) < 15_000_000
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
        scores=facts().scores.with_columns(score=pl.lit(text)),
        stages=[StageFacts(name=text, seconds=1.0, rows=1, summary=text)],
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


def browse(html, tmp_path, script=""):
    """Open the page from disk without a network, run `script` in it; return its DOM and what the console said."""
    nonce = re.search(r"nonce-(\w+)", html)[1]
    probe = f'<pre id="probe"></pre><script nonce="{nonce}">{script}</script></body>'
    page = tmp_path / "report.html"
    page.write_text(html.replace("</body>", probe) if script else html, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path}/profile",
         "--window-size=1440,900", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probed(dom):
    return re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]


@needs_chromium
@pytest.mark.parametrize("make", [facts, no_rows, lambda: facts(n_concepts=1)])
def test_a_browser_shows_the_page_without_errors_or_requests(tmp_path, make):
    show = make()
    script = 'probe.textContent = performance.getEntriesByType("resource").length'
    dom, console = browse(render(show), tmp_path, script)
    assert console == []
    assert probed(dom) == "0"
    for key, number in (("in", show.rows_in), ("kept", show.kept), ("dropped", show.rows_in - show.kept)):
        assert re.search(rf'id="rows-{key}">{number:,}<', dom)
    assert dom.count('class="plot-container') == (2 if show.rows_in else 0)


@needs_chromium
def test_the_console_is_watched(tmp_path):
    _, console = browse(render(no_rows()), tmp_path, "undefined_name()")
    assert len(console) == 1 and "undefined_name" in console[0]


@needs_chromium
def test_the_concept_table_sorts(tmp_path):
    table = concepts(12, example="b").with_columns(
        complexity=pl.Series([0.5, None, 0.25, 0.125, *[0.75] * 8], dtype=pl.Float64)
    )
    script = """
    const heads = [...document.querySelectorAll("table[data-sortable] th button")], found = [];
    const first = () => [...document.querySelectorAll("table[data-sortable] tbody th")].map((th) => th.textContent).join(" ");
    const press = (name) => heads.find((head) => head.textContent === name).click();
    for (const name of ["Complexity", "Complexity", "Eligible", "Concept", "Eligible"]) { press(name); found.push(first()); }
    found.push(document.querySelector("[aria-sort]").textContent, sorted.textContent);
    probe.textContent = found.join("|");
    """
    dom, console = browse(render(facts(concepts=table)), tmp_path, script)
    assert console == []
    assert probed(dom).split("|") == [
        "4 5 6 7 8 9 10 11 0 2 3 1",
        "3 2 0 4 5 6 7 8 9 10 11 1",
        "0 1 2 3 4 5 6 7 8 9 10 11",
        "11 10 9 8 7 6 5 4 3 2 1 0",
        "0 1 2 3 4 5 6 7 8 9 10 11",
        "Eligible",
        "Sorted by Eligible, descending",
    ]


@needs_chromium
def test_a_hostile_caption_stays_text_when_hovered(tmp_path):
    caption = "<b>bold</b> <a href='https://example.org'>link</a> <img src=x onerror=alert(1)> &lt;i&gt; %{x}"
    script = """
    const place = document.querySelector("[data-figure=complexity]");
    Plotly.Fx.hover(place, [{curveNumber: 0, pointNumber: 0}]);
    const layer = place.querySelector(".hoverlayer");
    probe.textContent = [layer.querySelectorAll("a, img, b").length, layer.textContent].join("|");
    """
    dom, console = browse(render(facts(concepts=concepts(1, example=caption))), tmp_path, script)
    assert console == []
    count, text = probed(dom).split("|")
    assert count == "0"
    for part in ("&lt;b&gt;bold", "example.org", "&lt;img src=x", "&amp;lt;i&amp;gt;", "%{x}"):
        assert part in text


@needs_chromium
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_never_scrolls_sideways(tmp_path, width):
    # Headless windows are at least 500 pixels wide, so the narrow page stands in a frame that reports its width.
    long = facts(
        name="s3://" + "a" * 300, warnings=["w" * 500], recipe="x: " + "y" * 500, versions={"k": "v" * 500}
    )
    long = replace(long, reasons={"kept": 18_001, "filter:" + "z" * 200: 43_233})
    html = render(long)
    nonce = re.search(r"nonce-(\w+)", html)[1]
    script = f'<script nonce="{nonce}">parent.postMessage(document.documentElement.scrollWidth, "*")</script></body>'
    (tmp_path / "inner.html").write_text(html.replace("</body>", script), encoding="utf-8")
    outer = f"""<body data-csp="nonce-x"><pre id="probe"></pre><script>onmessage = (event) => probe.textContent = event.data
    </script><iframe src="inner.html" width="{width}" height="800"></iframe></body>"""
    dom, _ = browse(outer, tmp_path)
    assert 0 < int(probed(dom)) <= width
