"""Who may ask the server of `curate review`: the guard alone, without a server."""

import pytest

from curate.review.security import Guard

LOCAL = Guard("127.0.0.1", 8600, "secret")
OPEN = Guard("0.0.0.0", 8600, "secret")


def refused(guard, host, *, token="secret", method="GET", **headers):
    found = guard.refusal(method, {"host": host, **headers}, token)
    return None if found is None else found[0]


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_its_own_names_pass(host):
    assert refused(LOCAL, host) is None


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example:8600", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8600", "localhost:8600@evil.example",
        "evil@127.0.0.1:8600", "127.0.0.1:8600/x", "[::1", "127.0.0.1:99999", "192.168.0.7:8600",
    ],
)  # fmt: skip
def test_other_names_do_not(host):
    assert refused(LOCAL, host) == 421


def test_open_to_the_network_takes_addresses_and_no_made_up_names():
    assert refused(OPEN, "192.168.0.7:8600") is None and refused(OPEN, "[fe80::1]:8600") is None
    assert refused(OPEN, "evil.example:8600") == 421


@pytest.mark.parametrize("token", [None, "", "secre", "secret2", "SECRET", "sécret"])
def test_without_the_token_nothing_passes(token):
    assert refused(LOCAL, "127.0.0.1:8600", token=token) == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8600", None), ("http://localhost:8600", 403), ("null", 403), ("", 403),
        ("https://evil.example", 403), ("http://127.0.0.1:8601", 403), ("file://127.0.0.1:8600", 403),
    ],
)  # fmt: skip
def test_writing_is_for_the_page_itself(origin, status):
    assert refused(LOCAL, "127.0.0.1:8600", method="POST", origin=origin) == status
    assert refused(LOCAL, "127.0.0.1:8600", method="GET", origin=origin) is None
