"""Links to reports that browsers can follow: where they lead, and what shows the reports of a schedule, and what it does not."""

import http.client
import os
import re
import socket
import stat
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from curate.errors import RecipeError, UsageError
from curate.flows import report_links, reports
from curate.flows.report_links import report_link
from curate.io.remote import cache
from curate.recipe.loading import load_recipe, parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import recipe_values
from tests.fixtures.flow_runs import free_port

NAME, OTHER = "2026-11-30T030000Z", "2026-11-29T030000Z"
PAGE = b"<!DOCTYPE html><title>report</title>\xc3\xbc"
HERE = socket.gethostname()


def recipe(root, **changes):
    return parse_recipe(recipe_values("in/*.parquet", root, **changes))


# --- where the link leads


def test_a_web_server_that_the_recipe_names_shows_runs_and_dated_runs(tmp_path):
    for base in ("https://reports.example.org/laion", "https://reports.example.org/laion/"):
        named = recipe(tmp_path, report={"url": base})
        dated = report_link(RunFolder(tmp_path / NAME), named, str(tmp_path), {})
        assert dated.url == f"https://reports.example.org/laion/{NAME}/7_report/report.html"
        plain = report_link(RunFolder(tmp_path), named, str(tmp_path), {})
        assert plain.url == "https://reports.example.org/laion/7_report/report.html"


def test_the_schedule_shows_dated_runs_of_its_folder_only(tmp_path):
    shown = {report_links.SHOWN_AT: "http://127.0.0.1:4201/key", report_links.SHOWN_OF: str(tmp_path)}
    found = report_link(RunFolder(tmp_path / NAME), recipe(tmp_path), str(tmp_path), shown)
    assert found.url == f"http://127.0.0.1:4201/key/{NAME}/report.html"
    assert f"`ssh -L 4201:127.0.0.1:4201 {HERE}`" in found.said
    for run in (tmp_path, tmp_path / "other" / NAME):
        assert report_link(RunFolder(run), recipe(run), str(run), shown).url is None
    # What the recipe says goes ahead.
    named = recipe(tmp_path, report={"url": "http://intern/r"})
    assert report_link(RunFolder(tmp_path / NAME), named, str(tmp_path), shown).url.startswith(
        "http://intern/r/2"
    )


def test_without_one_the_command_is_said_with_the_machine(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path)
    found = report_link(RunFolder(Path("a b")), recipe("a b"), "a b", {})
    assert (found.url, found.machine) == (None, HERE)
    assert found.command == f"curate report '{tmp_path.resolve()}/a b' --open"


@pytest.mark.parametrize(
    ("url", "options", "environment", "link"),
    [
        ("gs://b/runs/a b", {}, {}, "https://storage.cloud.google.com/b/runs/a%20b/7_report/report.html"),
        (
            "s3://b/r(1)",
            {},
            {},
            "https://s3.console.aws.amazon.com/s3/object/b?prefix=r%281%29/7_report/report.html",
        ),
        (
            "s3://b",
            {"anon": False},
            {},
            "https://s3.console.aws.amazon.com/s3/object/b?prefix=7_report/report.html",
        ),
        ("s3://b/r", {"endpoint_url": "http://minio:9000"}, {}, None),
        ("s3://b/r", {"client_kwargs": {"endpoint_url": "http://minio:9000"}}, {}, None),
        ("s3://b/r", {}, {"AWS_ENDPOINT_URL": "http://minio:9000"}, None),
        ("abfs://b/r", {}, {}, None),
        ("/runs/a", {}, {}, None),
    ],
)
def test_buckets_are_shown_by_the_console_of_their_owner(url, options, environment, link):
    assert report_links._console(url, options, environment)[0] == link


def test_a_run_at_a_url_is_named_by_it(tmp_path):
    """Not by the folder of its working copy here."""
    cache.begin(tmp_path, "s3://b/runs/a", storage_options={}, written_options={}, cache=10**9, shared=False)
    found = report_link(RunFolder(tmp_path), recipe("s3://b/runs/a"), "s3://b/runs/a", {})
    assert found.url.endswith("/s3/object/b?prefix=runs/a/7_report/report.html")
    assert (found.command, found.machine) == (
        "curate report s3://b/runs/a --open",
        "a machine that may read it",
    )


@pytest.mark.parametrize("url", ["https://me:pw@x/r", "https://x/r?token=1"])
def test_an_address_that_gives_access_is_refused(tmp_path, url):
    with pytest.raises(
        RecipeError, match=r"^report\.url must not hold a password, a token or a signature"
    ) as error:
        recipe(tmp_path, report={"url": url})
    assert "pw" not in str(error.value).split() and url not in str(error.value)


@pytest.mark.parametrize(
    "url", ["reports/laion", "ftp://x/r", "https://x/r#a", "https://x/a b", "https://x/)"]
)
def test_wrong_address_is_refused(tmp_path, url):
    with pytest.raises(RecipeError, match=r"^report.url must be an http\(s\) address of a folder, .*, got '"):
        recipe(tmp_path, report={"url": url})


def test_the_address_is_kept_with_the_recipe_and_recipes_without_one_stay(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(tmp_path, report={"url": "https://x/r"}).to_yaml())
    assert load_recipe(file).report.url == "https://x/r"
    assert "report" not in yaml.safe_load(recipe(tmp_path).to_yaml())


# --- what a schedule shows


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "nightly" / NAME / "7_report"
    folder.mkdir(parents=True)
    (folder / "report.html").write_bytes(PAGE)
    (folder / "summary.json").write_text("{}")
    (tmp_path / "nightly" / "latest").write_text(NAME)
    return tmp_path / "nightly"


@pytest.fixture
def shown(root, tmp_path):
    """The address of the reports below `root`, with the key in it."""
    port = free_port()
    with reports.shown(root, port, tmp_path / "key", pytest.fail) as at:
        assert at == f"http://127.0.0.1:{port}"
        yield os.environ[report_links.SHOWN_AT]


def asked(url, path=None, method="GET", **headers):
    """Return status, headers and body of an answer; the path is sent as it is."""
    found = urlsplit(url)
    connection = http.client.HTTPConnection(found.netloc, timeout=10)
    try:
        connection.putrequest(method, found.path if path is None else path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_a_flow_in_a_process_of_the_schedule_links_to_what_is_shown(root, shown):
    found = report_link(RunFolder(root / NAME), recipe(root), str(root))
    with urllib.request.urlopen(found.url, timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, PAGE)
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = dict(
            one.strip().partition(" ")[::2] for one in answer.headers["Content-Security-Policy"].split(";")
        )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert "connect-src" not in policy and "allow-same-origin" not in policy["sandbox"]
    status, headers, body = asked(found.url, method="HEAD")
    assert (status, body, int(headers["Content-Length"])) == (200, b"", len(PAGE))


def test_nothing_else_is_there(root, shown):
    key = shown.rpartition("/")[2]
    (root / OTHER).mkdir()
    for path in (
        "/", f"/{key}", f"/{key}/", f"/{key}/{NAME}", f"/{key}/{NAME}/", f"/{key}/{NAME}/summary.json", f"/{key}/latest",
        f"/{key}/{NAME}/7_report/report.html", f"/{key}/latest/report.html", f"/{key}/{OTHER}/report.html",
        f"/{key}/../{NAME}/report.html", f"/{key}/{NAME}/../{NAME}/report.html", f"/{key}/%2e%2e/report.html",
        f"/{key}/{NAME}%2f..%2f{NAME}/report.html", f"/{key}/{NAME}/report.html%00", f"/{key}/{NAME}/report.html/",
        f"/{NAME}/report.html", f"/{key[:-1]}/{NAME}/report.html", f"/{'A' * len(key)}/{NAME}/report.html",
        f"//{key}/{NAME}/report.html", "/docs", "/openapi.json",
    ):  # fmt: skip
        status, headers, body = asked(shown, path)
        assert (status, body.count(b"\n")) == (404, 1), path
        assert headers["Content-Security-Policy"] == reports.POLICY
        assert NAME.encode() not in body and str(root).encode() not in body


def test_links_and_what_is_no_file_are_not_followed(root, shown, tmp_path):
    secret = tmp_path / "7_report" / "report.html"
    secret.parent.mkdir()
    secret.write_text("secret")
    made = {
        "2026-11-01T000000Z": lambda run: run.symlink_to(tmp_path),
        "2026-11-02T000000Z": lambda run: (run.mkdir(), (run / "7_report").symlink_to(secret.parent)),
        "2026-11-03T000000Z": lambda run: ((run / "7_report").mkdir(parents=True), (run / "7_report/report.html").symlink_to(secret)),
        "2026-11-04T000000Z": lambda run: ((run / "7_report").mkdir(parents=True), os.mkfifo(run / "7_report/report.html")),
        "2026-11-05T000000Z": lambda run: (run / "7_report/report.html").mkdir(parents=True),
    }  # fmt: skip
    for name, make in made.items():
        make(root / name)
        assert asked(f"{shown}/{name}/report.html")[0] == 404, name
    assert asked(f"{shown}/{NAME}/report.html")[0] == 200


def test_other_names_of_the_machine_and_other_methods_are_refused(shown):
    page = f"{shown}/{NAME}/report.html"
    for host, status in {
        "evil.example:4201": 421, "127.0.0.1.evil.example": 421, "x@127.0.0.1": 421, "": 421, "[": 421,
        "localhost:9": 200, "127.0.0.1:4999": 200, "[::1]:1": 200,
    }.items():  # fmt: skip
        assert asked(page, Host=host)[0] == status, host
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        assert asked(page, method=method)[0] == 405, method


def test_it_listens_on_this_machine_alone_and_ends(root, tmp_path):
    with reports.shown(root, 0, tmp_path / "key", pytest.fail) as at:
        port = int(at.rpartition(":")[2])
        places = {one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"}
        assert [place.ip for place in places if place.port == port] == ["127.0.0.1"]
        page = f"{os.environ[report_links.SHOWN_AT]}/{NAME}/report.html"
        assert asked(page)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        asked(page)
    assert report_links.SHOWN_AT not in os.environ and report_links.SHOWN_OF not in os.environ


def test_links_outlive_the_schedule_that_made_them(root, tmp_path):
    """The same port and key when it is started again; the key is read by its user alone."""
    file, seen = tmp_path / "home" / "key", []
    with reports.shown(root, 0, file, pytest.fail) as at:
        port = int(at.rpartition(":")[2])
        seen.append(os.environ[report_links.SHOWN_AT])
        asked(f"{seen[0]}/{NAME}/report.html")
    with reports.shown(root, port, file, pytest.fail):
        seen.append(os.environ[report_links.SHOWN_AT])
        assert asked(f"{seen[0]}/{NAME}/report.html")[0] == 200
    assert seen[0] == seen[1] and len(seen[0].rpartition("/")[2]) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for broken in (b"", b"short\n", b"\xff" * 40, b"a/../../../../../../../b\n"):
        file.write_bytes(broken)
        made = reports.key_of_user(file)
        assert re.fullmatch(r"[\w-]{32}", made) and made not in seen[0] and reports.key_of_user(file) == made
    assert [path.name for path in file.parent.iterdir()] == ["key"]


def test_a_port_that_is_taken_is_said(root, tmp_path, monkeypatch):
    said = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with (
            pytest.raises(
                UsageError, match=rf"^--reports-port: port {taken} of 127.0.0.1 cannot be had \(.*\); give"
            ),
            reports.shown(root, taken, tmp_path / "key", said.append),
        ):
            pytest.fail("nothing is shown")
        assert said == []
        monkeypatch.setattr(reports, "PORT", taken)
        with reports.shown(root, None, tmp_path / "key", said.append) as at:
            assert at is None and report_links.SHOWN_AT not in os.environ
    assert said == [
        f"reports are not shown to browsers: port {taken} of 127.0.0.1 is taken; give one as --reports-port"
    ]
