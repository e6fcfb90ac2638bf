"""What the server of `curate review` answers, compared with the tables of the run; and what it refuses."""

import io
import shutil
import threading
import time

import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate
from curate.analysis.explain import opened as opened_context
from curate.analysis.summary.matters import what_matters
from curate.analysis.summary.summary import summarize
from curate.analysis.summary.tables import finished_families
from curate.embedding.store import EmbeddingPart
from curate.errors import RunError, UsageError
from curate.io.storage import read_frame
from curate.linalg import load_unit
from curate.overrides.store import Decision, Overrides
from curate.review import reading
from tests.fixtures.reviewed import (
    BROKEN,
    COPIES,
    HOSTILE,
    LABELS,
    ROWS,
    brute_groups,
    client_of,
    made_run,
    row_numbers,
)

ALL = ROWS + COPIES + BROKEN


@pytest.fixture(scope="module")
def run(decoding_here, tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def opened(run):
    with client_of(run) as (client, site):
        yield client, site


@pytest.fixture(scope="module")
def client(opened):
    return opened[0]


@pytest.fixture(scope="module")
def truth(run):
    """The rows of the run as Polars has them, numbered."""
    opened = curate.open_run(run)
    samples, decisions = opened.samples(), opened.decisions()
    frame = samples.drop("reason").hstack(decisions.select("keep", "reason", "concept", "distance", "rank"))
    names = opened.folder.class_names()
    scores = opened.scores().drop("concept", "distance")
    own = frame.filter(pl.col("occurrence") == 0)["uid"]
    assert own.n_unique() == len(own)
    first = (pl.col("outcome") == "ok") & pl.col("copy_of").is_null()
    frame = frame.with_row_index("n").with_columns(label=pl.col("label").replace(names))
    joined = frame.join(scores, on="uid", how="left", maintain_order="left")
    numbers = [name for name in scores.columns if name != "uid"]
    return joined.with_columns(pl.when(first).then(pl.col(numbers)))


def rows(client, **asked):
    answer = client.get("/api/rows", params={"limit": 200, **asked})
    assert answer.status_code == 200, answer.text
    return answer


# --- rows ------------------------------------------------------------------------------------------------------------


def test_every_row_is_there_in_order(client, truth):
    found = rows(client).json()
    assert found["total"] == ALL == len(truth)
    for name in ("n", "uid", "caption", "label", "reason", "keep", "outcome", "concept"):
        assert [row[name] for row in found["rows"]] == truth[name].to_list(), name


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ({"reason": "kept"}, pl.col("keep")),
        ({"reason": "dropped"}, ~pl.col("keep") & (pl.col("outcome") == "ok")),
        ({"reason": "unusable"}, pl.col("outcome") != "ok"),
        ({"reason": "exact_duplicate"}, pl.col("reason") == "exact_duplicate"),
        ({"concept": "1"}, pl.col("concept") == 1),
        ({"label": LABELS[0]}, pl.col("label") == LABELS[0]),
        ({"text": "PICTURE 1"}, pl.col("caption").str.contains("picture 1")),
        ({"text": "<script>"}, pl.col("caption").str.contains("<script>", literal=True)),
        ({"score": "el2n", "min": "0.5", "max": "0.9"}, pl.col("el2n").is_between(0.5, 0.9)),
        ({"where": "el2n > 0.8 and keep"}, (pl.col("el2n") > 0.8) & pl.col("keep")),
        ({"where": "keep -- a comment"}, pl.col("keep")),
        ({"reason": "kept", "where": "clip_score < (select median(clip_score) from rows)"}, pl.col("keep") & (pl.col("clip_score") < pl.col("clip_score").median())),
        ({"reason": "' or 1=1 --"}, pl.lit(False)),
        ({"label": "'; drop table rows; --"}, pl.lit(False)),
    ],
)  # fmt: skip
def test_filters_are_those_of_polars(client, truth, asked, condition):
    found = rows(client, **asked)
    assert row_numbers(found) == truth.filter(condition)["n"].to_list()
    assert found.json()["total"] == len(row_numbers(found))


@pytest.mark.parametrize("down", ["", "1"])
def test_pages_in_an_order_are_the_whole(client, truth, down):
    expected = truth.sort("el2n", "n", descending=[bool(down), False], nulls_last=True)
    found = []
    for offset in range(0, ALL, 50):
        page = rows(client, order="el2n", down=down, limit=50, offset=offset)
        assert page.json()["total"] == ALL
        found += row_numbers(page)
    assert found == expected["n"].to_list()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"where": "1=1; drop table rows"}, "cannot be used"),
        ({"where": "1=1) ; drop table rows; select (1"}, "one expression"),
        ({"where": "no_such > 1"}, "no_such"),
        ({"where": "exists(select * from read_csv('/etc/passwd'))"}, "Permission"),
        ({"where": "exists(from read_text('/etc/passwd'))"}, "Permission"),
        ({"where": "exists(from glob('/*'))"}, "Permission"),
        ({"where": "(select count(*) from range(100000000000)) > 0"}, "longer than"),
        ({"order": "el2n; drop table rows"}, "no column"),
        ({"score": 'x" or 1', "min": "0"}, "no column"),
        ({"score": "el2n", "min": "nan"}, "must be a number"),
        ({"concept": "one"}, "whole number"),
        ({"limit": "many"}, "whole number"),
        ({"offset": str(10**30)}, "must be smaller"),
    ],
)
def test_what_is_no_filter_is_said_in_one_line(client, opened, monkeypatch, asked, said):
    monkeypatch.setattr("curate.review.table.RowTable.ask.__kwdefaults__", {"seconds": 0.5}, raising=False)
    answer = client.get("/api/rows", params=asked)
    assert answer.status_code == 400 and list(answer.json()) == ["error"]
    assert said in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert rows(client).json()["total"] == ALL


def test_a_row_and_its_percentiles(client, truth):
    row = truth.filter(pl.col("reason") == "kept").row(3, named=True)
    found = client.get(f"/api/row/{row['n']}").json()
    assert found["row"]["uid"] == row["uid"]
    scores = {one["name"]: one for one in found["scores"]}
    for name in ("el2n", "clip_score", "noise_label"):
        every = truth[name].drop_nulls()
        expected = 100 * ((every < row[name]).sum() + (every == row[name]).sum() / 2) / len(every)
        assert scores[name]["percentile"] == pytest.approx(expected) and scores[name][
            "value"
        ] == pytest.approx(row[name])
    assert scores["clip_score"]["higher_is"] == "better"
    explained = curate.open_run(client.get("/api/about").json()["run"]).explain(row["uid"])
    lines = client.get(f"/api/why/{row['n']}").json()
    assert any(f"keeps {explained['concept']['kept']}" in line for line in lines)
    assert client.get("/api/row/999999").status_code == client.get("/api/why/999999").status_code == 400


# --- groups and concepts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.002, 0.01, 0.08])
def test_groups_are_what_hangs_together(client, run, epsilon):
    folder = curate.open_run(run).folder
    table = {row["uid"]: row["n"] for row in rows(client).json()["rows"] if row["occurrence"] == 0}
    expected = []
    for concept in range(4):
        numbers, vectors = [], []
        for part in sorted(folder.embeddings.glob("part-*.arrow")):
            stored = EmbeddingPart(part)
            assigned = pl.read_parquet(folder.assignments / f"{part.stem}.parquet")
            here = np.flatnonzero((assigned["concept"] == concept).to_numpy())
            numbers += [table[assigned["uid"][int(i)]] for i in here]
            vectors.append(load_unit(stored.take("image", here)))
        expected += [
            sorted(numbers[i] for i in group) for group in brute_groups(np.concatenate(vectors), epsilon)
        ]
    found, offset, more = [], 0, True
    while more:
        page = client.get("/api/near", params={"epsilon": epsilon, "offset": offset}).json()
        found += [sorted(row["n"] for row in group["rows"]) for group in page["groups"]]
        offset, more = len(found), page["more"]
    assert sorted(found) == sorted(expected) and expected


def test_copies_stand_beside_what_they_copy(client, truth):
    found = client.get("/api/copies").json()["groups"]
    expected = truth.filter(pl.col("reason") == "exact_duplicate")
    assert len(found) == COPIES == len(expected)
    for group in found:
        first, second = group["rows"]
        assert first["uid"] == second["uid"] and first["reason"] != "exact_duplicate" == second["reason"]


def test_concepts_are_those_of_the_run(client, run, truth):
    found = {one["concept"]: one for one in client.get("/api/concepts").json()}
    table = curate.open_run(run).concepts()
    assert sorted(found) == sorted(table["concept"].to_list())
    for row in table.iter_rows(named=True):
        one = found[row["concept"]]
        assert (one["kept"], one["n_eligible"]) == (row["kept"], row["n_eligible"])
        nearest = truth.filter((pl.col("concept") == row["concept"]) & pl.col("el2n").is_not_null()).sort(
            "distance"
        )
        assert one["rows"] == nearest["n"].head(4).to_list()


def test_like_a_row(client, truth):
    uid = truth["uid"][5]
    found = client.get("/api/search", params={"like": uid, "top": 5}).json()["rows"]
    expected = curate.open_run(client.get("/api/about").json()["run"]).search(uid=uid, top=5)
    assert [row["uid"] for row in found] == expected["uid"].to_list()
    answer = client.get("/api/search", params={"text": "a dog"})
    assert answer.status_code == 400 and "vectors of its own" in answer.json()["error"]


def test_what_is_to_be_looked_at_is_said_as_the_report_says_it(client, run, truth):
    about = client.get("/api/about").json()
    found = curate.open_run(run).summary()
    other = truth.filter((pl.col("pred_label") != pl.col("label")) & pl.col("neg_aum").is_not_null())
    assert about["doubtful"] == len(other) == found["label_errors"]["differ"] > 0
    assert client.get("/api/useful", params={"queue": "labels"}).json()["flagged"] == len(other)
    count, says = found["label_errors"]["count"], about["doubtful_says"]
    assert says.startswith(f"{len(other)} to look at (heads say another class)")
    assert f"about {count} of them wrong" in says or found["label_errors"]["unseen"]
    folder = curate.open_run(run).folder
    assert any(says in one.text for one in what_matters(folder, summarize(folder)))
    assert says in (folder.report / "report.html").read_text()


def test_pictures_are_encoded_anew(client, truth):
    good = truth.filter(pl.col("outcome") == "ok")["n"][7]
    for size in ("small", "large"):
        answer = client.get(f"/picture/{size}/{good}")
        assert answer.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(answer.content)).size == (120, 60)
    assert client.get("/picture/small/99999").status_code == 404
    assert client.get(f"/picture/huge/{good}").status_code == 404


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(run, tmp_path):
    """A client for a copy of the run that nothing was decided about."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    with client_of(copied) as (client, _):
        yield client, copied


def decide(client, status=200, **given):
    answer = client.post("/api/decide", json=given)
    assert answer.status_code == status, answer.text
    return answer.json()


def held(run):
    return {
        (row["uid"], row["what"]): row["to"]
        for row in Overrides(curate.open_run(run).folder).current().to_dicts()
    }


def test_decisions_are_on_the_disk_when_answered(fresh, truth):
    client, run = fresh
    uids = truth.filter("keep")["uid"].head(3).to_list()
    found = decide(client, uids=uids[:2], what="drop", by="ann")
    assert set(found["changed"]) == set(uids[:2]) and found["changed"][uids[0]]["keep"]["by"] == "ann"
    decide(client, uids=uids[2:], what="wrong_label", to=LABELS[1], by="ann")
    assert held(run) == {
        (uids[0], "drop"): None,
        (uids[1], "drop"): None,
        (uids[2], "wrong_label"): LABELS[1],
    }
    said = Overrides(curate.open_run(run).folder).history()
    assert said["from"].to_list() == ["kept", "kept", truth.filter(pl.col("uid") == uids[2])["label"][0]]
    assert sorted(row_numbers(rows(client, decided="drop"))) == sorted(
        truth.filter(pl.col("uid").is_in(uids[:2]))["n"]
    )
    assert rows(client, decided="none").json()["total"] == ALL - 3
    decide(client, turn="undo", by="ann")
    decide(client, turn="undo", by="ann")
    assert held(run) == {}
    decide(client, turn="redo", by="ann")
    assert held(run) == {(uids[0], "drop"): None, (uids[1], "drop"): None}
    assert client.get("/api/about").json()["decided"]["drop"] == 2
    # Who comes back finds it all.
    with client_of(run) as (again, _):
        assert again.get("/api/about").json()["decided"]["drop"] == 2


def test_the_later_of_two_people_wins_and_both_stand_in_the_history(fresh, truth):
    client, run = fresh
    uid = truth["uid"][0]
    seen = client.get("/api/about").json()["seen"]
    decide(client, uids=[uid], what="keep", by="ann")
    Overrides(curate.open_run(run).folder, by="bob").decide([Decision(uid, "drop")])  # another process
    found = client.get("/api/changes", params={"since": seen}).json()
    assert found["changed"] == {uid: {"keep": {**found["changed"][uid]["keep"], "what": "drop", "by": "bob"}}}
    assert found["counts"]["drop"] == 1 and found["counts"]["keep"] == 0
    assert [(one["by"], one["what"]) for one in client.get("/api/history").json()] == [
        ("bob", ["drop"]),
        ("ann", ["keep"]),
    ]
    # Each undoes their own.
    decide(client, turn="undo", by="bob")
    assert held(run) == {(uid, "keep"): None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"uids": ["no-such"], "what": "drop"}, "no sample 'no-such'"),
        ({"uids": [], "what": "drop"}, "1 to 10,000 rows"),
        ({"uids": "x", "what": "drop"}, "list of texts"),
        ({"uids": [1], "what": "drop"}, "list of texts"),
        ({"uids": ["x"], "what": "explode"}, "no decision 'explode'"),
        ({"uids": ["x"], "what": "drop", "to": "cat"}, "only wrong_label"),
        ({"uids": ["x"], "what": "wrong_label", "to": "y" * 301}, "only wrong_label"),
        ({"turn": "undo", "action": "no-such"}, "no action"),
    ],
)
def test_wrong_decisions_change_nothing(client, run, given, said):
    assert said in decide(client, 400, **given)["error"]
    assert held(run) == {}


def test_what_is_no_decision_at_all(client):
    for body in (b"", b"[]", b"{", b"\xff"):
        assert client.post("/api/decide", content=body).status_code == 400
    assert client.post("/api/decide", content=b" " * 2_100_000).status_code == 413
    assert client.post("/api/search", content=b"").status_code == 400


def test_read_only_decides_nothing(run, truth):
    with client_of(run, read_only=True) as (client, _):
        assert "read-only" in decide(client, 400, uids=[truth["uid"][0]], what="drop")["error"]
        assert client.get("/api/about").json()["read_only"]
    assert held(run) == {}


def test_the_next_ones_measure_and_propose(fresh, truth):
    client, _ = fresh
    first = client.get("/api/useful", params={"queue": "labels"}).json()
    flagged = truth.filter((pl.col("pred_label") != pl.col("label")) & pl.col("noise_label").is_not_null())
    # pred_label is a code in the tables
    assert first["looked"] == 0 and first["sample"]["n"] == 0 and first["proposal"] is None
    assert first["flagged"] > 10 and len(flagged) >= first["flagged"]
    asked = {"queue": "pairs", "cut": str(truth["clip_score"].quantile(0.5))}
    for _ in range(3):
        found = client.get("/api/useful", params=asked).json()
        for row in found["next"][:12]:
            wrong = truth["clip_score"][row["n"]] < truth["clip_score"].quantile(0.25)
            decide(client, uids=[row["uid"]], what="drop" if wrong else "keep")
    found = client.get("/api/useful", params=asked).json()
    below = truth.filter(pl.col("clip_score") <= float(asked["cut"]))
    assert found["flagged"] == len(below)
    verdicts = [row for row in rows(client, decided="any").json()["rows"] if row["occurrence"] == 0]
    looked = [row for row in verdicts if truth["clip_score"][row["n"]] <= float(asked["cut"])]
    assert found["looked"] == len(looked)
    sample = found["sample"]
    assert sample["n"] >= 12 and sample["low"] <= sample["precision"] <= sample["high"]
    assert not {row["n"] for row in found["next"]} & {row["n"] for row in verdicts}
    proposal = found["proposal"]
    assert proposal["cut"] < truth["clip_score"].quantile(0.25) and proposal["wrong"] == proposal["looked"]
    assert proposal["beyond"] == len(truth.filter(pl.col("clip_score") <= proposal["cut"]))
    assert "--where 'clip_score > " in proposal["command"]
    near = client.get("/api/useful", params={"queue": "near"}).json()
    assert near["flagged"] > 5 and all(row["partner"]["n"] != row["n"] for row in near["next"])
    assert client.get("/api/useful", params={"queue": "no"}).status_code == 400


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_the_token_opens_the_page_and_nothing_else_does(run):
    with client_of(run) as (client, _):
        client.cookies.clear()
        for path in (
            "/",
            "/static/app.js",
            "/api/about",
            "/picture/small/0",
            "/?token=wrong",
            "/api/about?token=secret",
        ):
            assert client.get(path).status_code == 403, path
        page = client.get("/?token=secret")
        assert page.status_code == 200 and '<script type="module"' in page.text
        cookie = page.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/about").status_code == 200


def test_answers_carry_the_policy(client):
    for path in ("/", "/static/style.css", "/api/about", "/picture/small/0", "/nothing", "/static/../app.py"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert (
        client.get("/static/..%2fapp.py").status_code == client.get("/static/__init__.py").status_code == 404
    )


def test_other_hosts_and_origins_are_refused(client, truth):
    assert client.get("/api/about", headers={"host": "evil.example:8600"}).status_code == 421
    decision = {"uids": [truth["uid"][0]], "what": "drop"}
    for origin in ("http://evil.example", "null", ""):
        answer = client.post("/api/decide", json=decision, headers={"origin": origin})
        assert answer.status_code == 403
        assert client.post("/api/search", content=b"x", headers={"origin": origin}).status_code == 403
    assert client.get("/api/changes").json()["counts"]["rows"] == 0


def test_texts_travel_as_they_are(client):
    captions = {row["caption"] for row in rows(client).json()["rows"]}
    answer = client.get("/api/rows", params={"limit": 200})
    assert captions.issuperset(HOSTILE[i % len(HOSTILE)] for i in range(1, ROWS, 2))
    assert answer.headers["content-type"] == "application/json" and answer.text.isascii()


# --- the tables it reads -----------------------------------------------------------------------------------------


def blocks_of(run, monkeypatch, together):
    monkeypatch.setattr(reading, "TOGETHER", together)
    context = opened_context(run)
    found = list(reading.blocks(context, finished_families(context.run)))
    assert len(context.parts) > 1 and len(found) == (len(context.parts) if together == 1 else 1)
    return pl.concat(found, how="vertical")


def test_rows_do_not_depend_on_how_many_parts_are_read_together(run, monkeypatch):
    alone = blocks_of(run, monkeypatch, 1)
    assert blocks_of(run, monkeypatch, 1_000_000).equals(alone)
    assert alone["n"].to_list() == list(range(len(alone)))
    # Of each part the vectors are numbered from 0, without a gap; rows without one have no place.
    for _, part in alone.group_by("part"):
        places = part["place"].drop_nulls().to_list()
        assert places == list(range(len(places))) and 0 < len(places)
    assert alone["place"].null_count() == alone.filter(pl.col("el2n").is_null()).height > 0


def test_near_is_what_dedup_stored_of_each_row(run, monkeypatch):
    found = blocks_of(run, monkeypatch, 1_000_000).filter(pl.col("place").is_not_null())
    stored = curate.open_run(run).folder.duplicates.glob("part-*.parquet")
    kept = pl.concat([pl.read_parquet(path) for path in stored])
    joined = found.join(kept, on="uid", how="left", maintain_order="left", suffix="_stored")
    assert joined["near"].equals(joined["max_similarity_earlier"], check_names=False)
    block = joined["concept_stored"].cast(pl.Int64) * reading.MOST_SUBCONCEPTS + joined["subconcept"]
    assert found["block"].equals(block, check_names=False)


def test_a_table_made_before_a_column_was_there(run, monkeypatch, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    path, other = sorted((copied / "0_samples").glob("part-*.parquet"))
    older = pl.read_parquet(path).drop("content_hash")
    older.write_parquet(path)
    pl.read_parquet(other).with_columns(content_hash=pl.lit("x")).write_parquet(other)
    found = blocks_of(copied, monkeypatch, 1_000_000)
    own = found.filter(pl.col("content_hash").is_null())
    assert (
        own["shard"].unique().to_list() == older["shard"].unique().to_list() and "x" in found["content_hash"]
    )
    assert found["content_hash"].null_count() == len(older)


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "part-x.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(RunError, match=r"part-x\.parquet: not a whole Parquet table"):
        read_frame(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(RunError, match=r"part-x\.parquet: not a whole Parquet table"):
        read_frame(path, ["a", "b"], perhaps=["c"])
    assert read_frame(path, ["c", "a"], perhaps=["c"]).columns == ["a"]


# --- the server ------------------------------------------------------------------------------------------------------


def test_a_served_run_answers_and_ends(run):
    import httpx

    before = set(threading.enumerate())
    served = curate.open_run(run).review(browser=False)
    try:
        assert served.url.startswith("http://127.0.0.1:")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                found = httpx.get(served.url)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert found.status_code == 200
        port = int(served.url.split(":")[2].split("/")[0])
        with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{port}.*--port"):
            curate.open_run(run).review(browser=False, port=port)
    finally:
        served.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(served.url)
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not {"pictures", "review", "tables"} & set(left)


def test_what_cannot_be_reviewed(tmp_path):
    from tests.fixtures.calls import curate as command

    assert "is not a run folder" in command("review", tmp_path, "--no-browser").error
    assert command("review", tmp_path, "--port", "0").code == 2
