"""Decisions go out as files of other tools and come back; a row that makes no sense is named by its number."""

import csv
import json

import polars as pl
import pytest

from curate import open_run
from curate.analysis.deciding import FORMATS
from curate.errors import UsageError
from tests.fixtures.builders import planted, write_shards
from tests.fixtures.calls import curate, own

pytestmark = pytest.mark.usefixtures("no_flush")
N = 60


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    glob = write_shards(folder / "in", planted(N, near=6), extra={"label": [f"l{i % 2}" for i in range(N)]})
    assert own(glob, folder / "run", "--set", "source.uid=id", "--set", "source.label=label").code == 0
    return folder / "run"


@pytest.fixture
def run(path):
    yield open_run(path)
    (path / "overrides.jsonl").unlink(missing_ok=True)


def held(run):
    return run.overrides.current().select("uid", "what", "to").rows()


def decide(run):
    people = run.overrides.by("ann")
    people.keep("s000001", "s000002")
    people.drop("s000003")
    people.not_duplicate("s000001")
    people.wrong_label("s000001", label='a "new", label')
    people.wrong_label("s000004")
    people.right_label("s000005")
    return held(run)


@pytest.mark.parametrize("form", FORMATS)
def test_what_goes_out_comes_back(run, path, form, tmp_path):
    before = decide(run)
    file = tmp_path / "sheet.csv"
    rows = run.overrides.export_file(file, form)
    assert rows == (len(before) if form in ("csv", "parquet") else N + 2)  # a row for each thing decided
    (path / "overrides.jsonl").unlink()
    assert run.overrides.by("bob").import_file(file, form) == len(before)
    assert held(run) == before
    assert set(run.overrides.current()["by"]) == {"bob"}
    assert run.overrides.import_file(file, form) == 0  # nothing is new
    assert run.overrides.history()["action"].n_unique() == 1


def test_a_sheet_shows_each_sample_with_what_was_decided_and_empty_rows_decide_nothing(run, tmp_path):
    decide(run)
    frame = run.overrides.sheet("all")
    assert frame["uid"].n_unique() == N and len(frame) == N + 2
    assert frame.columns[:6] == ["uid", "what", "from", "to", "when", "by"]
    kept = run.overrides.sheet("kept")
    assert kept["keep"].all() and kept["uid"].n_unique() == run.kept()["uid"].n_unique()
    before = held(run)
    run.overrides.export_file(tmp_path / "all.csv", rows="all")
    assert run.overrides.import_file(tmp_path / "all.csv") == 0
    assert held(run) == before


def test_edited_rows_of_a_table_are_taken_as_one_action(run, tmp_path):
    sheet = pl.DataFrame(
        {"uid": ["s000007", "s000008", "s000009"], "what": ["drop", "", "wrong_label"], "to": ["", "", "l9"]}
    )
    sheet.write_csv(tmp_path / "a.csv")
    assert run.overrides.import_file(tmp_path / "a.csv") == 2
    assert held(run) == [("s000007", "drop", "dropped"), ("s000009", "wrong_label", "l9")]
    assert run.overrides.current()["from"].to_list()[1] == "l1"
    assert run.overrides.undo() is not None
    assert held(run) == []


BAD = {
    "csv": ("uid,what\na,keep\nb,kepe\n", "row 3: there is no decision 'kepe'"),
    "csv ": ("uid,what\n,keep\n", "row 2: keep needs the uid"),
    "csv  ": ("name,what\na,keep\n", "no column 'uid'"),
    "csv   ": ("", "is empty"),
    "parquet": ("PAR1", "is no Parquet table"),
    "fiftyone": (json.dumps({"samples": [{"uid": "a", "tags": ["keep", "drop"]}]}), "row 1: has the tags keep and drop"),
    "fiftyone ": ("[", "is no JSON"),
    "fiftyone  ": (json.dumps({"samples": 3}), "must hold an object with a list 'samples'"),
    "label-studio": (json.dumps([{"data": {"uid": "a"}}, {"data": {}}]), "row 2: is no task"),
    "label-studio ": (
        json.dumps([{"data": {"uid": "a"}, "annotations": [{"result": [
            {"from_name": "decision", "value": {"choices": ["maybe"]}}]}]}]),
        "row 1: decision must be one of keep, drop, got 'maybe'",
    ),
    "argilla": (json.dumps([{"responses": {}}]), "row 1: is no record"),
}  # fmt: skip


@pytest.mark.parametrize("form", BAD)
def test_what_makes_no_sense_is_one_line_and_nothing_is_taken(run, path, form, tmp_path):
    text, said = BAD[form]
    (tmp_path / "f").write_text(text)
    found = curate("overrides", path, "--import", tmp_path / "f", "--format", form.strip())
    assert found.code == 2 and said in found.error
    assert held(run) == []


def test_samples_that_the_run_has_not_are_refused(run, tmp_path):
    (tmp_path / "a.csv").write_text("uid,what\ns000001,keep\nnobody,keep\n")
    with pytest.raises(UsageError, match=r"1 of 2 samples are not in .*, such as nobody"):
        run.overrides.import_file(tmp_path / "a.csv")
    assert held(run) == []


def test_the_last_annotation_that_was_not_cancelled_counts(run, tmp_path):
    def done(answer, **more):
        return {"result": [{"from_name": "decision", "value": {"choices": [answer]}}], **more}

    tasks = [
        {
            "data": {"uid": "s000001"},
            "annotations": [done("keep"), done("drop"), done("keep", was_cancelled=True)],
        }
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    run.overrides.import_file(tmp_path / "tasks.json", "label-studio")
    assert held(run) == [("s000001", "drop", "dropped")]


def test_the_command_decides_shows_and_takes_back(run, path, tmp_path):
    assert curate("overrides", path, "--drop", "s000001,s000002", "--by", "ann").code == 0
    (tmp_path / "uids.txt").write_text("s000003\ns000004\n")
    assert curate("overrides", path, "--keep", f"@{tmp_path}/uids.txt", "--by", "ann").code == 0
    shown = json.loads(curate("overrides", path, "--json").out)["decisions"]
    assert [(one["uid"], one["what"], one["by"]) for one in shown] == [
        ("s000001", "drop", "ann"), ("s000002", "drop", "ann"), ("s000003", "keep", "ann"), ("s000004", "keep", "ann"),
    ]  # fmt: skip
    assert curate("overrides", path, "--undo", "--by", "ann").code == 0
    assert len(held(run)) == 2
    assert curate("overrides", path, "--redo", "--by", "ann").code == 0
    said = curate("overrides", path, "--wrong-label", "s000001", "--label", "x", "--history")
    assert "undo" in said.out and "wrong_label" in said.out
    assert curate("overrides", path, "--label", "x").code == 2
    assert "takes uids" in curate("overrides", path, "--keep", ",").error
    assert "ending names no format" in curate("overrides", path, "--export", tmp_path / "x.json").error
    assert curate("overrides", path, "--export", tmp_path / "x.csv", "--rows", "some").code == 2
    assert curate("select", path).code == 0
    assert curate("inspect", path).out.count("override") >= 2
    assert open_run(path).overrides.current().height == 5


def test_one_command_is_one_action_or_none(run, path):
    both = curate("overrides", path, "--keep", "s000001", "--drop", "s000002", "--by", "ann")
    assert both.code == 0 and "keep: 1" in both.err and "drop: 1" in both.err
    assert curate("overrides", path, "--undo", "--by", "ann").code == 0
    assert held(run) == []  # both went
    half = curate("overrides", path, "--keep", "s000001", "--drop", "nobody")
    assert "such as nobody" in half.error and held(run) == []
    torn = curate("overrides", path, "--keep", "s000001,s000002", "--drop", "s000002")
    assert torn.code == 2 and "s000002 cannot be both keep and drop" in torn.error and held(run) == []
    assert "empty" in curate("overrides", path, "--wrong-label", "s000001", "--label", " ").error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file of uids"),
        (b"\xff\xfe", "cannot be read as a file of uids"),
        (b"\n", "takes uids"),
    ],
)
@pytest.mark.parametrize("command", ["overrides", "forget"])
def test_a_file_of_uids_that_is_none_is_named(path, tmp_path, command, content, said):
    if content is not None:
        (tmp_path / "uids").write_bytes(content)
    options = ["--keep"] if command == "overrides" else []
    got = curate(command, path, *options, f"@{tmp_path}/uids")
    assert got.code == 2 and (said in got.error or (command == "forget" and content == b"\n"))


def test_a_file_of_uids_as_spreadsheets_write_it(run, path, tmp_path):
    (tmp_path / "uids").write_bytes(b"\xef\xbb\xbfs000001\r\ns000002\r\n")
    assert curate("overrides", path, "--keep", f"@{tmp_path}/uids").code == 0
    assert [uid for uid, *_ in held(run)] == ["s000001", "s000002"]


TEXTS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''-1",
    "'quoted'",
    "it's",
    "a\r\nb\rc\nd",
    '"',
    "a,b",
)


def test_a_spreadsheet_computes_nothing_of_a_sheet(run, tmp_path):
    for number, label in enumerate(TEXTS):
        run.overrides.wrong_label(f"s{number:06d}", label=label)
    before, sheet = held(run), tmp_path / "sheet.csv"
    run.overrides.export_file(sheet, "csv")
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [cell for row in rows for name, cell in row.items() if name not in ("margin", "distance")]
    assert len(rows) == len(TEXTS) and not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r"))]
    assert [row["to"] for row in rows][:7] == [f"'{text}" for text in TEXTS[:7]]
    for number in range(len(TEXTS)):
        run.overrides.reset(f"s{number:06d}")
    run.overrides.import_file(sheet, "csv")
    assert held(run) == before
