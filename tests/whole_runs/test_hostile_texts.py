"""Texts that try to run, load or hide something, wherever a run shows texts: they show as text, and nothing else happens."""

import csv
import json
import re

import pytest
from markdown_it import MarkdownIt

import curate
from curate.analysis.deciding import FORMATS
from curate.report.plan_figure import page as plan_page
from tests.fixtures.browser import NEEDS_CHROMIUM, go, page_of, until
from tests.fixtures.calls import curate as command
from tests.fixtures.hostile import COLUMN, FEW, HIDDEN, IMAGE, TEXTS, hostile_run

pytestmark = NEEDS_CHROMIUM
VIEWS = (
    ("concepts", ""), ("samples", ""), ("near", ""), ("near", "?list=useful"), ("copies", ""), ("labels", ""),
    ("labels", "?list=flagged"), ("pairs", ""), ("pairs", "?list=flagged"), ("unusable", ""), ("cut", ""),
)  # fmt: skip
#: What stands in a page and should not: elements and attributes that run or load, or lead elsewhere than to `allowed`.
LOADING = """(allowed) => [...document.querySelectorAll("body *")].flatMap((one) => [
  ...(/^(iframe|object|embed|base|meta|link|form|video|audio|math|marquee|details-x|template)$/i.test(one.tagName) && !one.matches("form.filters, #search-form, dialog form") ? [one.tagName] : []),
  ...(/^(script|style)$/i.test(one.tagName) && !one.nonce && one.type !== "application/json" ? [one.tagName] : []),
  ...[...one.attributes].filter(({name, value}) => name.startsWith("on")
    || (["href", "src", "srcset", "action", "data", "xlink:href", "srcdoc"].includes(name) && !new RegExp(allowed).test(value))).map(({name, value}) => `${one.tagName} ${name}=${value}`),
])"""


@pytest.fixture(
    scope="module",
    params=[pytest.param(FEW, id="few"), pytest.param(TEXTS, id="all", marks=pytest.mark.long)],
)
def made(request, decoding_here, no_flush, tmp_path_factory):
    """A run of the texts, and the texts."""
    return hostile_run(tmp_path_factory.mktemp("hostile"), request.param), list(request.param.values())


def quiet(found, allowed):
    """Assert that nothing but text is on the page."""
    found.page.wait_for_timeout(50)
    assert found.noted == []
    assert found.page.evaluate("[window.ran, window.frames.length]") == [None, 0]
    assert found.page.evaluate(LOADING, allowed) == []


def captions(run):
    return set(curate.open_run(run).samples()["caption"].drop_nulls())


def held(run):
    """Return what is decided: of wrong labels, which is right."""
    rows = curate.open_run(run).overrides.current().select("uid", "what", "to").rows()
    return sorted((uid, what, to if what == "wrong_label" else None) for uid, what, to in rows)


def as_shown(text):
    """Return a text as HTML has it, which knows no null, with its blanks folded."""
    return " ".join(text.replace("\0", "").replace("\ufffd", "").split())


def rendered(chromium, markdown):
    """Return the page that a renderer of Markdown makes which takes HTML as it is; the worst there is."""
    found = page_of(chromium, "data:")
    found.page.set_content(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    )
    return found


def report_of(chromium, path, known):
    """Open a report, all that is folded in it and some pictures, and assert that only text shows."""
    found = page_of(chromium, "data:", offline=True)
    found.page.goto(path.as_uri())
    assert found.noted.pop(0) == path.as_uri()
    found.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for button in found.page.locator("button.open:visible").all()[:4]:
        button.click()
        found.page.keyboard.press("Escape")
    quiet(found, "^(#|data:image/)")
    said = set(found.page.locator("bdi.said").all_text_contents())
    assert said and said <= known
    return found


def test_the_texts_do_run_where_they_are_markup(chromium):
    found = page_of(chromium, "data:", offline=True)
    ran = 0
    for text in FEW.values():
        found.page.set_content(f'<!doctype html><p title="x">{text}</p>')
        found.page.wait_for_timeout(30)
        ran += found.page.evaluate("window.ran ?? 0")
    assert ran >= 3 and any("leak.example" in one for one in found.noted)
    loads = rendered(chromium, IMAGE)
    loads.page.wait_for_timeout(30)
    assert any("leak.example" in one for one in loads.noted)


def test_review(made, chromium):
    run, texts = made
    served = curate.open_run(run).review(browser=False)
    own = "^(#|/picture/|/static/)"
    try:
        found = page_of(chromium, served.url.partition("?")[0], "blob:")
        page = found.page
        page.goto(served.url)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        shown = set()
        for view, query in VIEWS:
            go(page, view, query)
            quiet(found, own)
        go(page, "samples")
        total = len(curate.open_run(run).decisions())
        while page.locator(".tile").count() < total:
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            page.wait_for_timeout(50)
        shown = set(page.locator(".under .caption").all_text_contents())
        assert shown >= captions(run)
        everybody = page.locator(".tile .mark bdi").all_text_contents()
        assert {text.strip() for text in everybody} >= {text.strip() for text in texts[:20]}
        for number in range(min(len(texts), 40)):
            page.evaluate("(n) => document.querySelectorAll('.tile')[n].click()", number)
            until(page, "document.querySelector('#inspector .scores')")
            assert page.locator("#inspector .full").text_content() in shown
        page.keyboard.press("Enter")
        page.wait_for_selector("#large[open] .stage img")
        quiet(found, own)
        page.keyboard.press("Escape")
        page.click("#open-history")
        page.wait_for_selector(".history li")
        assert page.locator(".history li").count() == len(texts)
        quiet(found, own)
        page.keyboard.press("Escape")
        go(page, "concepts")
        named = page.locator(".concept .name").all_text_contents()
        assert set(named) >= {text for text in texts[:3] if text}
        # Decided on the page: by whom, and which label is right.
        for text in (COLUMN, texts[0]):
            go(page, "labels")
            page.fill("#who", text[:80])
            page.locator(".tile").first.click()
            page.keyboard.press("w")
            page.fill("#new-label", text[:300])
            page.keyboard.press("Enter")
            page.locator("#status", has_text="wrong label").wait_for()
            page.evaluate("(text) => { location.hash = `#/search?text=${encodeURIComponent(text)}` }", text)
            page.locator(
                "#content [role=alert]"
            ).wait_for()  # its vectors are its own, so words cannot be searched for
            assert page.locator("#title bdi").text_content() == text
            assert [one for one in found.noted if "400 (Bad Request)" not in one] == []
            found.noted.clear()
            quiet(found, own)
    finally:
        served.close()


def test_report(made, chromium):
    run, texts = made
    found = report_of(chromium, run / "7_report" / "report.html", captions(run))
    text = as_shown(found.page.locator("main").text_content())
    assert all(as_shown(one[:39]) in text for one in texts[:3])  # what concepts are called


@pytest.mark.long
def test_page_of_a_concept(made, chromium):
    run, _ = made
    found = report_of(chromium, curate.open_run(run).report(0, progress=False), captions(run))
    text = as_shown(found.page.locator("main").text_content())
    assert any(as_shown(one[:39]) in text for one in captions(run))


def test_notebook(made, chromium):
    found = page_of(chromium, "data:")
    found.page.set_content(f"<!doctype html>{curate.open_run(made[0])._repr_html_()}")
    quiet(found, "^data:image/")
    cells = found.page.locator("td").all_text_contents()
    assert {as_shown(one) for one in cells} & {as_shown(one) for one in captions(made[0]) if len(one) < 160}


@pytest.mark.long
def test_plan(made, chromium):
    plan = curate.open_run(made[0]).plan()
    found = page_of(chromium, "data:", "blob:")
    found.page.set_content(plan_page({**plan, "run": str(made[0])}))
    found.page.wait_for_selector(".plot-container")
    assert found.noted == [] and found.page.evaluate("window.ran") is None
    assert found.page.title().startswith("Plan of")


def test_card_of_the_data_set(made, chromium):
    text = (made[0] / "6_filtered" / "README.md").read_text("utf-8")
    found = rendered(chromium, text.split("---\n", 2)[2])
    quiet(found, "^$")
    cells = [one.strip() for one in found.page.locator("td").all_text_contents()]
    assert COLUMN in cells and IMAGE in cells
    assert found.page.locator("a, img").count() == 0


def test_terminal(made):
    run, texts = made
    uids = curate.open_run(run).samples()["uid"].to_list()
    asked = [
        ("inspect", run), ("inspect", run, "--json"), ("inspect", run, "--sql", "select * from samples"),
        ("overrides", run), ("overrides", run, "--history"), ("overrides", run, "--json"), ("verify", run),
        ("explain", run, "--json", "--", uids[0]), ("explain", run, "--", "no such \x1b[2J \u202e \u061c"),
        *(("explain", run, "--", uid) for uid in uids[: len(texts)]),
    ]  # fmt: skip
    for call in asked:
        said = command(*call)
        assert not re.search(HIDDEN, said.out + said.err), call[0]
        assert said.code == (2 if "no such" in call[-1] else 0) if isinstance(call[-1], str) else True, (
            said.err
        )
    decided = json.loads(command("overrides", run, "--json").out)["decisions"]
    assert {one["to"] for one in decided if one["what"] == "wrong_label"} >= set(texts)


@pytest.mark.parametrize("form", FORMATS)
def test_sheets(made, form, tmp_path):
    run, texts = made
    sheet = tmp_path / ("sheet.parquet" if form == "parquet" else "sheet.csv")
    before = held(run)
    curate.open_run(run).overrides.export_file(sheet, form)
    if form == "csv":
        with sheet.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        numbers = re.compile(r"-?[\d.]+(e-?\d+)?")
        cells = [cell for row in rows for cell in row if not numbers.fullmatch(cell)]
        assert len(rows) > len(texts) and not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r"))]
    journal = run / "overrides.jsonl"
    kept = journal.read_bytes()
    try:
        journal.unlink()
        curate.open_run(run).overrides.import_file(sheet, form)
        assert held(run) == before
    finally:
        journal.write_bytes(kept)
