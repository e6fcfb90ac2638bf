"""The page of `curate review` in Chromium, used by mouse and keyboard as a person would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

import curate
from curate.overrides.store import Overrides
from tests.fixtures.browser import NEEDS_CHROMIUM, go, said, tiles, until
from tests.fixtures.pictured import picture
from tests.fixtures.reviewed import COPIES, HOSTILE, LABELS, made_run

pytestmark = NEEDS_CHROMIUM
VIEWS = ("concepts", "samples", "near", "copies", "labels", "pairs", "unusable", "cut")
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
NAMELESS = (
    "all => all.filter((one) => one.checkVisibility() && !one.alt && !one.labels?.length && !one.innerText"
    " && !one.getAttribute('aria-label') && !one.closest('[aria-hidden=true], [role=option]')).map((one) => one.outerHTML)"
)


@pytest.fixture(scope="module")
def run(decoding_here, tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def served(run):
    served = curate.open_run(run).review(browser=False)
    yield served
    served.close()


@pytest.fixture(scope="module")
def seen(served, visit):
    """The page that most tests share."""
    return visit(served.url)


@pytest.fixture(autouse=True)
def nothing_noted(request):
    yield
    if "seen" in request.fixturenames:
        seen = request.getfixturevalue("seen")
        assert seen.noted == []


def held(run):
    rows = Overrides(curate.open_run(run).folder).current().to_dicts()
    return {(row["uid"], row["what"]): row["to"] for row in rows}


def focused(page):
    return page.evaluate("document.activeElement.dataset?.n ?? document.activeElement.id")


def test_the_token_does_not_stay_in_the_address(seen, served):
    assert "token" in served.url and "token" not in seen.page.url


def test_every_view_shows_what_it_is_about(seen, run):
    page = seen.page
    decisions = curate.open_run(run).decisions()
    for link in page.locator("#views a").all():
        link.click()
        until(page, "document.body.dataset.shown === location.hash")
        assert page.inner_text("#title")
        assert page.locator("#content").inner_text().strip()
        assert page.locator("#views a[aria-current]").count() == 1
    assert page.locator("#views a").evaluate_all("all => all.map((one) => one.dataset.view)") == list(VIEWS)
    go(page, "copies")
    assert page.locator(".section").count() == COPIES
    go(page, "unusable")
    assert len(tiles(page)) == decisions.filter(pl.col("reason").str.starts_with("unusable")).height
    go(page, "cut")
    kept, dropped = (page.locator(".section").nth(place).locator(".tile") for place in (0, 1))
    assert kept.evaluate_all("all => all.every((one) => one.matches('.kept'))") and dropped.count() > 0
    go(page, "near", "?epsilon=0.01")
    assert page.locator(".section .tile").count() >= 10


@pytest.mark.parametrize("width", [390, 1152, 1440])
def test_what_is_alike_lies_side_by_side(seen, width):
    """Beside a group of three too, which once made a second column of another width."""

    def in_groups(route):
        answer = route.fetch().json()
        rows = [row for group in answer["groups"] for row in group["rows"]]
        groups = [{**answer["groups"][0], "rows": rows[a:b]} for a, b in ((0, 2), (2, 4), (4, 7), (7, 9))]
        route.fulfill(json={**answer, "groups": groups, "more": False})

    page = seen.page
    before = page.viewport_size
    page.set_viewport_size({"width": width, "height": 900})
    page.route("**/api/near*", in_groups)
    go(page, "near", "?epsilon=0.3")
    until(page, "document.querySelectorAll('#content .section').length === 4")
    tops = page.locator("#content .section").evaluate_all(
        "all => all.map((one) => [...one.querySelectorAll('.tile')].map((tile) => tile.getBoundingClientRect().top))"
    )
    page.unroute_all()
    page.set_viewport_size(before)
    assert list(map(len, tops)) == [2, 2, 3, 2]
    assert all(first == second for first, second, *_ in tops)


def test_what_comes_late_stays_off_the_next_view(seen):
    page = seen.page
    held = []
    page.route("**/api/useful*", lambda route: held.append(route))
    go(page, "near")
    go(page, "cut")
    until(page, "document.querySelectorAll('#content .tile').length > 0")
    for route in held:
        route.continue_()
    page.unroute("**/api/useful*")
    page.wait_for_load_state("networkidle")
    assert held and page.locator("#useful").is_hidden()
    assert page.inner_text("#summary") == "the last ones kept and the first ones dropped of each concept"


def test_a_view_without_samples_says_so_in_its_own_words(seen):
    page = seen.page
    nothing = {"groups": [], "more": False, "rows": 0}
    for path in ("near", "copies"):
        page.route(f"**/api/{path}*", lambda route: route.fulfill(json=nothing))
    for view, query, text in (
        ("near", "", "No samples are so alike at this epsilon. A larger one takes in less similar ones."),
        ("copies", "", "No sample is an exact copy of another."),
        ("samples", "?where=false", "No sample is like that."),
        ("labels", "?list=flagged&cut=1000", "No sample is flagged at this cut."),
        ("unusable", "?reason=no_such", "Every sample can be used."),
    ):
        go(page, view, query)
        page.locator("#content .empty", has_text=text).wait_for(timeout=5_000)
        assert page.locator("#content .empty").count() == 1, view
    page.unroute_all()


def test_an_address_of_a_view_that_the_run_has_nothing_for(seen):
    page = seen.page
    queues = "import('/static/state.js').then(({state}) => { const {queues} = state.about; %s })"
    page.evaluate(queues % "window.kept = {...queues}; delete queues.labels; delete queues.pairs;")
    for view, text in (("labels", "doubts labels"), ("pairs", "compares images with captions")):
        go(page, view)
        page.locator("#content .empty", has_text=text).wait_for(timeout=5_000)
        assert page.locator("#content .empty").count() == 1, view
    page.evaluate(queues % "Object.assign(queues, window.kept)")


def test_hostile_texts_only_show(seen):
    page = seen.page
    for view in VIEWS:
        go(page, view)
    go(page, "samples")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # more come by themselves
    until(page, "document.querySelectorAll('.tile').length > 100")
    text = page.locator(".under bdi").all_text_contents()
    for one in HOSTILE:
        assert one in text or any(one[:20] in other for other in text), one
    assert (
        page.locator(
            "#content script, #content iframe, #content style, #content svg, #content b, #content math, img[src=x]"
        ).count()
        == 0
    )
    go(page, "samples", "?text=%3Cscript%3E")
    page.locator(".tile").first.click()
    page.locator("#inspector .full", has_text="<script>").wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('#content')).display") != "none"
    page.evaluate("history.replaceState(null, '', '#/samples')")


def test_the_map_opens_a_concept(seen, run):
    page = seen.page
    go(page, "concepts")
    mark = page.locator(".concept-mark").first
    concept = int(mark.get_attribute("data-concept"))
    mark.hover(force=True)
    page.locator(".card strong").wait_for()
    mark.click(force=True)
    until(page, "location.hash.includes('concept=')")
    page.wait_for_selector(".tile")
    rows = curate.open_run(run).decisions().filter(pl.col("concept") == concept)
    assert page.inner_text("#summary") == f"{rows.height} samples"
    go(page, "concepts")
    page.fill("#concept-name", "no such name")
    assert page.locator(".concept").count() == 0


def test_filters_narrow_and_say_what_is_wrong(seen, run):
    page = seen.page
    go(page, "samples")
    page.select_option("select[name=reason]", "kept")
    kept = curate.open_run(run).kept().height
    page.locator("#summary", has_text=f"{kept} samples").wait_for()
    page.fill("input[name=where]", "keep and el2n < 0.7")
    page.press("input[name=where]", "Enter")
    until(page, "location.hash.includes('where')")
    page.locator("#content .tile").first.wait_for()
    go(page, "samples", "?where=1%3B%20drop%20table%20rows")
    assert "cannot be used" in page.inner_text("#content [role=alert]")
    assert [seen.noted.pop() for _ in list(seen.noted)] == [REFUSED]
    page.get_by_role("button", name="Clear", exact=True).first.click()
    until(page, "location.hash === '#/samples'")
    page.locator(".tile").first.wait_for()


def test_keys_move_select_decide_and_take_back(seen, run):
    page = seen.page
    go(page, "samples", "?reason=kept")
    numbers = tiles(page)
    uids = dict(
        zip(numbers, page.locator(".tile").evaluate_all("all => all.map((one) => one.id)"), strict=True)
    )
    page.locator(".tile").first.click()
    page.keyboard.press("ArrowRight")
    assert focused(page) == str(numbers[1])
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    page.keyboard.press("ArrowDown")
    assert focused(page) == str(numbers[1 + columns])
    page.keyboard.press("ArrowUp")
    before = len(held(run))
    page.keyboard.press("k")
    said(page, "keep")
    until(page, f"document.activeElement.dataset.n === '{numbers[2]}'")
    assert page.locator(f"#{uids[numbers[1]]} .mark.keep").count() == 1
    assert "decided: keep" in page.get_attribute(f"#t{numbers[1]}", "aria-label")
    # Many at a time.
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert (
        page.locator(".tile[aria-selected=true]").count() == 3
        and page.inner_text("#selected") == "3 selected"
    )
    page.keyboard.press("x")
    said(page, "3 samples: drop")
    assert len(held(run)) == before + 4
    page.keyboard.press("u")
    said(page, "Taken back: 3 samples")
    assert len(held(run)) == before + 1
    page.keyboard.press("Shift+U")
    said(page, "Done again: 3 samples")
    page.keyboard.press("Control+z")
    said(page, "Taken back: 3 samples")
    page.locator(f"#t{numbers[1]}").click()
    page.keyboard.press("c")
    said(page, "nothing decided")
    assert len(held(run)) == before


def test_a_wrong_label_takes_the_right_one(seen, run):
    page = seen.page
    go(page, "labels")
    page.locator(".tile").first.click()
    number = page.locator(".tile").first.get_attribute("data-n")
    page.keyboard.press("w")
    page.wait_for_selector("#new-label")
    page.fill("#new-label", LABELS[0])
    page.keyboard.press("Enter")
    said(page, "wrong label")
    assert LABELS[0] in held(run).values()
    assert page.locator(f"#t{number} .mark.wrong_label").count() == 1
    page.locator("#looked", has_text="1 of").wait_for()
    page.keyboard.press("r")
    page.locator("#looked", has_text="2 of").wait_for()
    page.keyboard.press("m")
    until(page, f"!document.querySelector('#t{number}')")
    page.click("#open-history")
    page.locator(".history li").nth(1).wait_for()
    page.locator(".history button", has_text="Take back").nth(1).click()
    said(page, "Taken back")
    assert LABELS[0] not in held(run).values()
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('#dialog').open")


def test_every_part_of_a_list_is_shown_as_what_it_is(seen, run):
    page = seen.page
    page.click("#open-keys")
    keys = page.locator(".keys dt").all_inner_texts()
    assert keys[0] == "← ↑ → ↓" and {"K", "X", "N", "R", "W", "C"} <= set(keys)
    page.keyboard.press("Escape")
    go(page, "samples", "?reason=kept")
    page.locator(".tile").first.click()
    page.keyboard.press("w")
    page.fill("#new-label", LABELS[1])
    page.keyboard.press("Enter")
    said(page, "wrong label")
    page.locator(".tile").first.click()
    decided = page.locator("#inspector .decided-by")
    decided.wait_for()
    by = page.input_value("#who")
    assert decided.inner_text().strip() == f"wrong label: {LABELS[1]} by {by}"
    assert "[object" not in page.inner_text("body")
    page.keyboard.press("u")
    said(page, "Taken back")


def test_a_pair_says_the_score_that_it_goes_by(seen, run):
    page = seen.page
    go(page, "pairs")
    scores = curate.open_run(run).scores().select("uid", "clip_score").drop_nulls()
    values = {f"clip_score {value:.4g}" for value in scores["clip_score"]}
    notes = page.locator(".tile .note").all_inner_texts()
    assert notes and values >= {text.replace("\u2212", "-") for text in notes}


def test_a_concept_goes_by_its_name(seen, run):
    page = seen.page
    names = json.loads((run / "concept_names.json").read_text())["names"]
    concept, name = next(iter(names.items()))
    go(page, "samples", f"?concept={concept}")
    assert page.inner_text("#title") == f"Concept {concept}: {name}"
    page.locator(".tile").first.click()
    assert page.locator("#inspector .facts a").inner_text() == f"{concept}: {name}"


def test_names_that_every_object_has_are_no_views(seen):
    page = seen.page
    for name in ("constructor", "toString", "__proto__"):
        go(page, name)
        assert page.inner_text("#title") == "Samples" and page.locator(".tile").count() > 0


def test_the_large_view(seen):
    page = seen.page
    go(page, "samples", "?reason=kept&order=el2n")
    numbers = tiles(page)
    page.locator(".tile").first.click()
    page.keyboard.press("Enter")
    page.wait_for_selector("#large[open] .stage img")
    page.locator("#large .scores tbody tr").first.wait_for()
    page.locator("#large .why li", has_text="concept").first.wait_for()
    page.keyboard.press("z")
    assert "scale(3)" in page.locator(".stage img").get_attribute("style")
    page.keyboard.press("-")
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('#large .info').dataset.n === '{numbers[1]}'")
    page.keyboard.press("x")  # decides, and goes on
    until(page, f"document.querySelector('#large .info').dataset.n === '{numbers[2]}'")
    page.keyboard.press("u")
    said(page, "Taken back")
    page.keyboard.press("Escape")
    until(page, f"document.activeElement.dataset.n === '{numbers[2]}'")
    assert not page.evaluate("document.querySelector('#large').open")


def test_like_a_sample_and_a_dropped_picture(seen, tmp_path):
    page = seen.page
    go(page, "samples")
    page.locator(".tile").nth(5).click()
    page.locator("#inspector a", has_text="More like it").click()
    until(page, "location.hash.includes('like=')")
    page.locator(".tile .note", has_text="similarity").first.wait_for()
    # This run has vectors of its own, so a picture cannot be compared: it says so.
    page.evaluate("document.querySelector('#search-form').hidden = false")
    path = tmp_path / "picture.png"
    path.write_bytes(picture(1))
    page.set_input_files("#search-file", path)
    page.locator("#content [role=alert]", has_text="vectors of its own").wait_for()
    assert [seen.noted.pop() for _ in list(seen.noted)] == [REFUSED]


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.long)]
)
def test_it_fits_the_screen_and_everything_has_a_name(served, visit, width, scheme):
    found = visit(served.url, width=width, scheme=scheme)
    page = found.page
    for view in VIEWS:
        go(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.locator("img, button, input, select, a").evaluate_all(NAMELESS) == [], view
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, background[4:-1].split(","))) < 60) == (scheme == "dark")
    if width < 700:
        go(page, "samples", "?where=false")
        assert page.locator("#actions").is_hidden() and page.locator("#content .empty").is_visible()
        go(page, "concepts")
        assert page.locator("#actions").is_hidden()
        go(page, "samples")
        for button in page.locator("#actions button").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
            assert button.evaluate("one => one.scrollWidth <= one.clientWidth"), button.inner_text()
        page.locator(".tile .shot").first.click()
        page.wait_for_selector("#large[open]")
        assert page.locator("#large .large-actions button").first.is_visible()
        assert page.evaluate("document.querySelector('#large').scrollWidth") <= width
    assert found.noted == []
    page.context.close()


def test_the_tab_key_reaches_everything(seen):
    page = seen.page
    go(page, "samples")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(({id, name, dataset, className}) => id || name || dataset.view || className)(document.activeElement)"
            )
        )
    assert {
        "undo",
        "redo",
        "open-history",
        "who",
        "cut",
        "samples",
        "reason",
        "where",
        "tile",
    } <= reached
    assert any(name.startswith("t") and name[1:].isdigit() for name in reached)  # the grid is one stop
    assert any(name.startswith("do ") for name in reached)


@pytest.mark.long
def test_decisions_survive_a_kill_and_ctrl_c_ends_it(run, visit, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    for signum in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "curate", "review", str(copied), "--no-browser"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "USER": "ann"},
        )  # fmt: skip
        found = visit(process.stdout.readline().strip())
        go(found.page, "samples", "?reason=kept&decided=none")
        before = len(held(copied))
        found.page.locator(".tile").first.click()
        found.page.keyboard.press("x")
        said(found.page, "drop")
        process.send_signal(signum)
        started = time.monotonic()
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - started < 5
        assert process.returncode == (0 if signum == signal.SIGINT else -signal.SIGKILL), err
        assert "Traceback" not in err
        assert len(held(copied)) == before + 1
        found.page.context.close()
