"""The report of a real run, opened from disk in Chromium with the network off, and used as a person would."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import curate
from curate.analysis.summary.what_if import SHARES, TEMPERATURES
from curate.ordering.shares import n_keep
from curate.recipe.loading import parse_recipe
from curate.report.page import _environment
from curate.selection.density import density_budgets
from tests.fixtures.browser import NEEDS_CHROMIUM, page_of
from tests.fixtures.calls import curate as command
from tests.fixtures.pictured import CAPTION, LABELS, pictured

pytestmark = NEEDS_CHROMIUM
PANELS = (
    "funnel", "groups", "map", "concepts", "galleries", "whatif", "scores", "reliability", "duplicates", "mislabelled",
    "weights", "stages", "recipe",
)  # fmt: skip
FIGURES = ("map", "whatif", "histogram", "correlation", "weights")
#: Share, temperature.
SETTINGS = ((0.3, 0.1), (0.1, 0.1), (0.75, 0.02), (0.05, 5.0), (0.9, 0.001))


@pytest.fixture(scope="module")
def run(decoding_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    curate.run(parse_recipe(pictured(folder)))
    return folder / "run"


@pytest.fixture(scope="module")
def visit(chromium):
    """Open a file in a page of its own, without a network; what it says, asks for and pops up is noted."""

    def opened(path, **settings):
        found = page_of(chromium, "data:", offline=True, **settings)
        found.page.goto(path.as_uri())
        assert found.noted.pop(0) == path.as_uri()
        return found

    return opened


@pytest.fixture(scope="module")
def seen(run, visit):
    """The page that most tests share: loading it takes a second or two."""
    return visit(run / "7_report" / "report.html")


def shown_rows(page):
    return page.locator("#concept-table tbody tr:visible").count()


def first_column(page):
    return [int(text) for text in page.locator("#concept-table tbody th").all_inner_texts()]


def test_every_panel_is_there_and_nothing_is_asked_for(seen):
    page = seen.page
    for panel in PANELS:
        assert page.locator(f"#{panel}").is_visible(), panel
    for figure in FIGURES:
        assert page.locator(f"[data-figure={figure}] .plot-container").count() == 1, figure
    assert page.locator(".figure").count() == len(FIGURES)
    assert (
        page.evaluate(
            "performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length"
        )
        == 0
    )
    assert seen.noted == []


def test_hostile_texts_only_show(seen):
    page = seen.page
    body = page.locator("main").inner_text()
    assert CAPTION in body and all(label in body for label in LABELS)
    assert (
        page.locator("img[src=x]").count() == 0 and page.locator("bdi b, bdi script, td script").count() == 0
    )
    page.locator("[data-figure=map] .points path").first.hover(force=True)
    page.wait_for_selector("#card:not([hidden])")
    assert page.locator("#card img[src=x]").count() == 0
    assert seen.noted == []


def test_concepts_go_by_their_names(seen, run):
    names = {
        int(one): name for one, name in json.loads((run / "concept_names.json").read_text())["names"].items()
    }
    assert names
    shown = dict(
        text.split(": ", 1) for text in seen.page.locator("#gallery-choice option").all_inner_texts()
    )
    assert all(text.startswith(names[int(one)][:60]) for one, text in shown.items() if int(one) in names)
    groups = seen.page.locator("[data-groups=concept] tbody th").all_inner_texts()
    listed = dict(text.removesuffix(" ▲").split(" ", 1) for text in groups if " " in text)
    assert {int(one) for one in listed} & set(names)
    assert all(text.startswith(names[int(one)][:39]) for one, text in listed.items())


def test_the_table_sorts_and_filters(seen, run):
    page, concepts = seen.page, curate.open_run(run).concepts()
    total = shown_rows(page)
    assert total == concepts.height
    press = page.locator("#concept-table thead button")
    press.filter(has_text="Complexity").click()
    expected = concepts.sort("complexity", descending=True)["concept"].to_list()
    assert first_column(page) == expected
    press.filter(has_text="Complexity").click()
    assert first_column(page) == expected[::-1]
    sizes = concepts["n_eligible"].sort()
    page.fill("#concept-rows", str(sizes[-2]))
    assert shown_rows(page) == (sizes >= sizes[-2]).sum() < total
    assert page.inner_text("#concept-count").startswith(f"{(sizes >= sizes[-2]).sum()} of")
    page.fill("#concept-rows", "0")
    page.fill("#concept-text", "no such caption")
    assert shown_rows(page) == 0
    page.fill("#concept-text", "")
    page.select_option("#concept-limit", "cap")
    assert shown_rows(page) == concepts["at_cap"].sum()
    page.select_option("#concept-limit", "")
    assert seen.noted == []


def test_samples_of_a_concept_open_by_click(seen, run):
    page = seen.page
    for concept in first_column(page)[:2]:
        page.get_by_role("button", name=f"Samples of concept {concept}", exact=True).click()
        chosen = page.locator("#gallery-choice option:checked").inner_text()
        assert chosen.startswith(f"{concept}: ")
        kept = page.locator("[data-list=hardest_kept] figure")
        rows = curate.open_run(run).decisions().filter((pl.col("concept") == concept) & pl.col("keep"))
        assert kept.count() == min(12, rows.height)
        shown = {
            title.rpartition("uid ")[2] for title in kept.evaluate_all("all => all.map((one) => one.title)")
        }
        assert shown == set(rows.sort("distance", descending=True)["uid"].head(12))
    before = page.input_value("#gallery-choice")
    page.click("#gallery-next")
    assert page.input_value("#gallery-choice") != before
    page.click("#gallery-back")
    assert page.input_value("#gallery-choice") == before


def test_a_picture_opens_large_and_is_picked(seen, run, tmp_path):
    page, rows = seen.page, curate.open_run(run).decisions()
    said = rows.join(curate.open_run(run).scores(), on="uid", how="left", suffix="_of_scores")
    shots = page.locator("[data-list=hardest_kept] button.open")
    assert page.locator("#large").is_hidden() and page.locator("#picked").is_hidden() and shots.count() > 2
    found = []
    shots.nth(0).focus()
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
        facts = dict(
            zip(*(page.locator(f"#large-facts {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True)
        )
        row = said.filter(uid=facts["uid"]).row(0, named=True)
        found.append(facts["uid"])
        assert facts["row"] == f"{row['shard']}:{row['row']}" and facts["decision"].startswith(row["reason"])
        assert float(facts["el2n"]) == pytest.approx(row["el2n"], rel=1e-4)
        assert facts["concept"].split(":")[0] == str(row["concept"])
        page.keyboard.press(key)
    shown = [
        title.rpartition("uid ")[2]
        for title in page.locator("[data-list=hardest_kept] figure").evaluate_all(
            "all => all.map((one) => one.title)"
        )
    ]
    assert found == [shown[0], shown[1], shown[0]] and page.inner_text("#large-uid") == shown[-1]
    page.click("#large-pick")
    page.keyboard.press("ArrowRight")
    page.click("#large-pick")
    page.keyboard.press("ArrowRight")
    page.click("#large-pick")
    page.click("#large-pick")  # taken back
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()
    assert page.inner_text("#picked-count") == "2 picked" and page.locator(".is-picked").count() >= 2
    with page.expect_download() as saved:
        page.click("#picked-save")
    saved.value.save_as(tmp_path / "picked.txt")
    assert (tmp_path / "picked.txt").read_text() == "".join(
        f"{uid}\n" for uid in sorted([shown[-1], shown[0]])
    )
    dropped = command("overrides", run, "--drop", f"@{tmp_path / 'picked.txt'}", "--json")
    assert dropped.code == 0 and json.loads(dropped.out)
    assert command("overrides", run, "--undo").code == 0
    page.click("#picked-clear")
    assert page.locator("#picked").is_hidden() and page.locator(".is-picked").count() == 0
    assert [line for line in seen.noted if not line.startswith("blob:")] == []


def test_an_object_opens_large_and_is_picked(seen):
    page = seen.page
    known = page.evaluate("data.samples.uid[0]")
    crop = page.evaluate("data.samples.image.find((one) => one)")
    name = '<img src=x onerror=alert(1)>" cat'
    shots = {
        name: [
            {"uid": known, "covered": True, "image": crop},
            {"uid": "of <b>elsewhere", "covered": False, "image": None},
        ]
    }
    one = {"class": name, "objects": 2, "rows": 2, "kept_rows": 1, "groups": 2, "covered": 1}
    report = SimpleNamespace(objects={"classes": [one], "of": 1, "shots": shots})
    panel = _environment().get_template("panel_objects.html").render(report=report, max_listed=10)
    page.evaluate("(panel) => document.querySelector('main').insertAdjacentHTML('beforeend', panel)", panel)
    page.locator("#objects button.open").nth(0).click()
    facts = page.inner_text("#large-facts")
    assert name in facts and known in facts and "covered" in facts and "decision" in facts
    assert page.get_attribute("#large-picture img", "src") == crop
    page.click("#large-pick")
    page.keyboard.press("ArrowRight")
    facts = page.inner_text("#large-facts")
    assert "of <b>elsewhere" in facts and "uncovered" in facts and "decision" not in facts
    assert page.inner_text("#large-picture") == "There is no picture to show."
    assert page.inner_text("#picked-count") == "1 picked"
    page.click("#large-pick")
    page.keyboard.press("Escape")
    assert page.locator("#objects .is-picked").count() == 2
    page.click("#picked-clear")
    page.evaluate("document.getElementById('objects').remove()")


def test_hostile_texts_only_show_in_large(seen):
    page = seen.page
    place = page.evaluate("data.samples.caption.findIndex((one) => one && one.includes('onerror'))")
    page.evaluate(
        "(place) => { const one = opener(place); document.querySelector('main').append(one); one.click(); one.remove(); }",
        place,
    )
    assert CAPTION in page.inner_text("#large-facts") and page.locator("#large img[src=x]").count() == 0
    assert page.locator("#large-facts script, #large-facts bdi b").count() == 0
    page.keyboard.press("Escape")


def test_pairs_say_which_stays(seen, run):
    reasons = dict(curate.open_run(run).decisions().select("uid", "reason").iter_rows())
    tags = seen.page.locator("#duplicate-pairs .two").evaluate_all(
        "all => all.map((one) => [...one.querySelectorAll('figure')].map((shot) => [shot.querySelector('.tag').textContent, shot.title]))"
    )
    assert len(tags) >= 10
    words = {"kept": "kept", "over_budget": "over budget", "near_duplicate": "near-duplicate"}
    for first, second in tags:
        for (tag, title), role in ((first, "stays"), (second, "goes")):
            assert (
                tag
                == f"{role} · {words.get(title_reason := reasons[title.rpartition('uid ')[2]], title_reason)}"
            )
        assert second[0] == "goes · near-duplicate"


def test_the_map_shows_and_opens_concepts(seen):
    page, mark = seen.page, seen.page.locator("[data-figure=map] .points path").last
    fill = mark.evaluate("(one) => one.style.fill")
    mark.hover(force=True)
    page.wait_for_selector("#card:not([hidden])")
    concept, _, name = page.inner_text("#card strong").removeprefix("Concept ").partition(": ")
    assert name
    assert page.locator("#card img").count() >= 1
    mark.click(force=True)
    assert page.locator("#gallery-choice option:checked").inner_text().startswith(f"{concept}: ")
    page.check("input[value=share]")
    fills = page.locator("[data-figure=map] .points path").evaluate_all(
        "all => all.map((one) => one.style.fill)"
    )
    assert fills[-1] != fill or len(set(fills)) > 1
    assert seen.noted == []


def test_a_score_is_chosen_and_shows_its_cut(seen):
    page = seen.page
    page.select_option("#score-choice", "el2n")
    assert "filter el2n <= 1.35 at 1.35" in page.inner_text("#score-note")
    page.locator("[data-figure=histogram] .xtitle", has_text="el2n").wait_for()
    assert page.locator("[data-figure=histogram] .shapelayer path").count() == 1


@pytest.fixture(scope="module")
def selected(run, tmp_path_factory):
    """The concepts that `curate select` makes of the run at every setting."""
    again = tmp_path_factory.mktemp("select") / "run"
    shutil.copytree(run, again)
    found = {}
    for share, temperature in SETTINGS:
        more = ("--set", f"select.temperature={temperature}", "--at-most", "--quiet")
        said = command("select", again, "--keep", share, *more)
        assert said.code == 0, said.err
        found[share, temperature] = pl.read_parquet(again / "5_decisions" / "_concepts" / "concepts.parquet")
    return found


def test_the_sliders_say_what_select_does(seen, selected, run):
    page = seen.page
    shares, steps = page.evaluate("[data.whatif.shares, data.whatif.temperatures]")
    competing = curate.open_run(run).decisions().filter(pl.col("reason").is_in(["kept", "over_budget"]))
    first = competing.group_by("concept").agg(pl.col("uid").min()).sort("concept")
    for share, temperature in SETTINGS:
        places = [shares.index(share), steps.index(temperature)]
        page.evaluate(
            """([keep, heat]) => { for (const [id, value] of [["keep", keep], ["temperature", heat]]) {
                const slider = document.getElementById(id); slider.value = value; slider.dispatchEvent(new Event("input")); } }""",
            places,
        )
        table = selected[share, temperature]
        page.locator(
            "#what-command", has_text=f"--keep {share:g} --set select.temperature={temperature:g}"
        ).wait_for()
        assert page.inner_text("#what-rows") == f"{table['kept'].sum():,}"
        assert page.evaluate("drawn.plan.kept") == table["kept"].to_list()
        assert page.inner_text("#what-limits") == " · ".join(
            str((table.filter(pl.col("n_eligible") > 0)[name]).sum()) for name in ("at_cap", "at_floor")
        )
        budgets = density_budgets(
            table["n_eligible"].to_numpy(), table["complexity"].to_numpy(),
            n_keep=n_keep(str(share), 240), temperature=temperature,
            smallest_uid_rank=first["uid"].rank("ordinal").to_numpy().astype(np.int64),
        )  # fmt: skip
        assert page.evaluate("drawn.plan.kept") == budgets.budget.tolist()
    page.click("#what-reset")
    assert page.evaluate("drawn.plan.kept") == selected[0.3, 0.1]["kept"].to_list()


def test_sliders_work_with_the_keyboard(seen):
    page = seen.page
    page.click("#what-reset")
    before = page.inner_text("#what-rows")
    page.focus("#keep")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.locator("#keep-said", has_text="40\u00a0%").wait_for()
    assert int(page.inner_text("#what-rows")) > int(before)


@pytest.mark.long
def test_every_budget_of_the_grid_is_that_of_python(seen, run):
    page = seen.page
    shares, steps = page.evaluate("[data.whatif.shares, data.whatif.temperatures]")
    assert set(SHARES) <= set(shares) and set(TEMPERATURES) <= set(steps)
    table = pl.read_parquet(run / "5_decisions" / "_concepts" / "concepts.parquet")
    competing = curate.open_run(run).decisions().filter(pl.col("reason").is_in(["kept", "over_budget"]))
    first = competing.group_by("concept").agg(pl.col("uid").min()).sort("concept")
    for i, share in enumerate(shares):
        for j, temperature in enumerate(steps):
            found = page.evaluate("([i, j]) => planned(i, j)", [i, j])
            expected = density_budgets(
                table["n_eligible"].to_numpy(), table["complexity"].to_numpy(),
                n_keep=n_keep(str(share), 240), temperature=temperature,
                smallest_uid_rank=first["uid"].rank("ordinal").to_numpy().astype(np.int64),
            )  # fmt: skip
            assert found["kept"] == expected.budget.tolist()
            assert found["asked"] == n_keep(str(share), 240) and found["rows"] == expected.budget.sum()
            some = table["n_eligible"].to_numpy() > 0
            assert found["atCap"] == expected.at_cap[some].sum()
            assert found["atFloor"] == expected.at_floor[some].sum()


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.long)]
)
def test_it_fits_the_screen_in_either_theme(run, visit, width, scheme):
    seen = visit(run / "7_report" / "report.html", width=width, scheme=scheme)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    background = seen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, background[4:-1].split(","))) < 60) == (scheme == "dark")
    nameless = "all => all.filter((one) => !one.alt && !one.labels?.length && !one.innerText && !one.getAttribute('aria-label')).length"
    assert seen.page.locator("img, button, input, select").evaluate_all(nameless) == 0
    assert seen.noted == []


def test_the_page_of_a_concept(run, visit):
    said = command("report", run, "--concept", 0)
    path = run / "7_report" / "_concept-0.html"
    assert said.code == 0 and said.out == f"{path}\n"
    seen = visit(path)
    rows = curate.open_run(run).decisions().filter((pl.col("concept") == 0) & pl.col("keep"))
    assert seen.page.locator("[data-list=hardest_kept] figure").count() == min(48, rows.height)
    assert seen.page.locator("#gallery img").count() > 0 and seen.noted == []
    seen.page.evaluate("setTimeout(() => undefined_name(), 0)")  # what is noted is noted
    seen.page.wait_for_timeout(100)
    assert len(seen.noted) == 1 and "undefined_name" in seen.noted[0]
    missing = command("report", run, "--concept", 99)
    assert missing.code == 2 and missing.error.startswith("--concept 99: ")


def test_the_report_works_where_a_schedule_shows_it(chromium, run, tmp_path, monkeypatch):
    """Its scripts run, pictures open, lists are saved, below the stricter policy of that server; and it can ask nobody."""
    from curate.flows import report_links, reports

    root, name = tmp_path / "nightly", "2026-11-30T030000Z"
    root.mkdir()
    shutil.copytree(run / "7_report", root / name / "7_report")
    with reports.shown(root, 0, tmp_path / "key", pytest.fail) as at:
        context = chromium.new_context()
        page, noted = context.new_page(), []
        page.on("console", lambda message: noted.append(message.text))
        page.on("pageerror", lambda error: noted.append(str(error)))
        page.goto(f"{os.environ[report_links.SHOWN_AT]}/{name}/report.html")
        assert page.inner_text("#rows-in") == "240"
        shots = page.locator("[data-list=hardest_kept] button.open")
        shots.nth(0).click()
        assert page.locator("#large img").evaluate("one => one.complete && one.naturalWidth > 0")
        page.click("#large-copy")
        page.locator("#large-said", has_text=re.compile("^(copied|selected)")).wait_for()
        page.click("#large-pick")
        page.keyboard.press("Escape")
        with page.expect_download() as saved:
            page.click("#picked-save")
        saved.value.save_as(tmp_path / "picked.txt")
        assert len((tmp_path / "picked.txt").read_text().splitlines()) == 1
        assert noted == []
        assert page.evaluate("self.origin") == "null"
        asked = f"fetch('{at}/').then(() => 'answered', () => 'refused')"
        assert page.evaluate(asked) == "refused"
        context.close()
