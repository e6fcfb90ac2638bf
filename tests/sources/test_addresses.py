"""Images at http(s) addresses: where they may lead, how long they may take, and when they are asked for again."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from curate.io import retries
from curate.sources import addresses
from curate.sources.addresses import RefusedError, UrlAccess, refuse_private
from curate.sources.references import follow

SHARD = "/nowhere/0.parquet"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the first folder of the path says; the server notes what it was asked."""

    def do_GET(self):
        self.server.asked.append(self.path)
        getattr(self, "get_" + self.path.split("/")[1])()

    def answer(self, data, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def get_ok(self):
        self.answer(b"png")

    def get_none(self):
        self.send_error(404)

    def get_file(self):
        self.answer(b"", 302, Location="file:///etc/passwd")

    def get_moved(self):
        self.answer(b"", 302, Location=f"http://{self.server.moved_to}/ok")

    def get_busy(self):
        status = int(self.path.split("/")[2])
        times = int(self.path.split("/")[3])
        if self.server.asked.count(self.path) <= times:
            self.answer(b"", status, Retry_After="0")
        else:
            self.answer(b"png")

    def get_cut(self):
        if self.server.asked.count(self.path) == 1:
            self.answer(b"pn", Content_Length="3")
        else:
            self.answer(b"png", Content_Length="3")

    def get_drip(self):
        self.drip(b"HTTP/1.0 200 OK\r\n\r\n")

    def get_header(self):
        self.drip(b"HTTP/1.0 200 OK\r\nX: ")

    def get_length(self):
        self.drip(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n")

    def get_chunks(self):
        self.drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")

    def get_loop(self):
        self.answer(b"", 302, Location=self.path)

    def drip(self, head, piece=b"a"):
        with contextlib.suppress(OSError):
            self.wfile.write(head)
            while not self.server.over.wait(0.05):
                self.wfile.write(piece)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(retries, "PAUSES_S", (0.01,) * 4)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as one:
        one.asked, one.over, one.moved_to = [], threading.Event(), ""
        one.base = f"http://127.0.0.1:{one.server_address[1]}"
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        yield one
        one.over.set()
        one.shutdown()


def anywhere(url):
    return follow(url, SHARD, allow_url=UrlAccess.ANY)


def test_an_image_or_why_there_is_none(server):
    assert anywhere(f"{server.base}/ok") == (b"png", "ok", None)
    missing = anywhere(f"{server.base}/none")
    assert missing == (None, "missing_image", "cannot be read: HTTP status 404")
    assert server.asked.count("/none") == 1
    assert anywhere(f"{server.base}/file")[1] == "missing_image"
    assert anywhere(f"{server.base}/loop")[1] == "missing_image"
    assert anywhere("http://[no address/x.png")[1] == "missing_image"
    assert anywhere("http://host:port/x.png")[1] == "missing_image"
    assert anywhere("http:///x.png")[1] == "missing_image"


@pytest.mark.parametrize("what", ["drip", "header", "length", "chunks"])
def test_an_answer_that_drips_ends_with_the_deadline(server, monkeypatch, what):
    monkeypatch.setattr(addresses, "OBJECT_S", 0.5)
    start = time.monotonic()
    found = anywhere(f"{server.base}/{what}")
    assert found == (None, "missing_image", "cannot be read: not read within 0.5 s")
    assert 0.4 < time.monotonic() - start < 10


def test_waiting_for_room_does_not_count_as_the_servers_time(server, monkeypatch):
    monkeypatch.setattr(addresses, "OBJECT_S", 2.0)
    waited = []

    def take(size):
        if size > 0 and not waited:
            waited.append(time.sleep(2.2))

    assert follow(f"{server.base}/ok", SHARD, allow_url=UrlAccess.ANY, take=take)[1] == "ok"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_server_is_asked_again(server, status):
    assert anywhere(f"{server.base}/busy/{status}/2")[1] == "ok"
    assert server.asked == [f"/busy/{status}/2"] * 3
    given_up = anywhere(f"{server.base}/busy/{status}/99")
    assert given_up == (None, "missing_image", f"cannot be read: HTTP status {status}; tried 5 times")


def test_an_answer_that_is_cut_off_is_no_image(server):
    counts = []
    found = follow(f"{server.base}/cut", SHARD, allow_url=UrlAccess.ANY, take=counts.append)
    assert found == (b"png", "ok", None)
    assert sum(counts) == 3, "what was read in vain does not count any more"


def test_a_wait_that_the_server_asks_for_is_kept_within_the_deadline(server, monkeypatch):
    monkeypatch.setattr(
        _Handler, "get_busy", lambda self: self.answer(b"", 503, Retry_After="3600"), raising=True
    )
    start = time.monotonic()
    assert anywhere(f"{server.base}/busy")[2] == "cannot be read: HTTP status 503"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[0:0:0:0:0:0:0:1]", "[0:0:0:0:0:ffff:127.0.0.1]",
        "169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.100.100.200", "0.0.0.0", "[fd00:ec2:0:0:0:0:0:254]",
        "[fe80:0:0:0:0:0:0:1]", "[64:ff9b:0:0:0:0:7f00:1]", "[2002:7f00:1:0:0:0:0:0]", "168.63.129.16", "224.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_addresses_inside_the_network_are_refused(host, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it was asked"))
    data, outcome, reason = follow(f"http://{host}:9/x.png", SHARD, allow_url=UrlAccess.PUBLIC)
    assert (data, outcome) == (None, "refused_path"), reason
    assert reason.startswith("the address leads to ")
    assert reason.endswith(", inside the network; source.allow does not list private")


def test_a_name_is_refused_by_what_it_stands_for(server, monkeypatch):
    """Whatever one of the addresses of a name is, and whether it is the first address or that of a redirect."""
    real = socket.getaddrinfo
    stands_for = {
        "inside.test": ["127.0.0.1"],
        "both.test": ["8.8.8.8", "10.0.0.1"],
        "front.test": ["9.9.9.9"],
    }

    def resolved(name, port, *args, **options):
        if name not in stands_for:
            return real(name, port, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in stands_for[name]]

    port = server.server_address[1]
    connect = socket.socket.connect
    to_server = {"9.9.9.9": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(
        socket.socket,
        "connect",
        lambda self, where: connect(self, (to_server.get(where[0], where[0]), where[1])),
    )
    for host in ("inside.test", "both.test"):
        assert follow(f"http://{host}:{port}/ok", SHARD, allow_url=True)[1] == "refused_path"
    assert server.asked == []
    assert follow(f"http://front.test:{port}/ok", SHARD, allow_url=True)[1] == "ok"
    server.moved_to = f"inside.test:{port}"
    server.asked.clear()
    assert follow(f"http://front.test:{port}/moved", SHARD, allow_url=True)[1] == "refused_path"
    assert server.asked == ["/moved"]
    assert follow(f"http://front.test:{port}/moved", SHARD, allow_url=UrlAccess.ANY)[1] == "ok"


def test_a_proxy_may_stand_inside_but_leads_nowhere_inside(server, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.base)
    assert follow("http://127.0.0.1:1/ok", SHARD, allow_url=True)[1] == "refused_path"
    assert server.asked == []
    monkeypatch.setattr(_Handler, "get_", lambda self: self.answer(b"png"), raising=False)
    assert follow("http://8.8.8.8/x.png", SHARD, allow_url=True) == (b"png", "ok", None)
    assert server.asked == ["http://8.8.8.8/x.png"]


def test_public_addresses_are_not_refused():
    refuse_private(["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
    with pytest.raises(RefusedError):
        refuse_private(["8.8.8.8", "::1"])
