"""Who may ask: whoever has the token, from this page alone.

A page in the browser can send requests to servers on the same machine, and a name that its owner points to 127.0.0.1 makes
them look like its own. So the address that was asked for must be one of ours, what changes anything must come from our own
page, and everything needs the token, which the browser keeps in a cookie that it sends from no other site.
"""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["HEADERS", "Guard"]

#: Of every answer. Nothing is loaded from elsewhere, no script or style stands in a page, and no page may frame this one.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Guard:
    """What a request must have. host : where the server listens."""

    host: str
    port: int
    token: str

    @property
    def cookie(self) -> str:
        """The name of the cookie; servers on other ports of a machine share its cookies."""
        return f"curate_review_{self.port}"

    def refusal(self, method: str, headers: Mapping[str, str], given: str | None) -> tuple[int, str] | None:
        """Return (status, why) for a request that is refused, None for one that may pass.

        given : the token in its cookie or its address.
        """
        host = headers.get("host", "")
        if not self._known(host):
            return 421, f"this server is not {host[:80]!r}; open the address that curate review printed"
        if given is None or not secrets.compare_digest(given.encode(), self.token.encode()):
            return 403, "the address lacks the token; open the one that curate review printed"
        if method not in ("GET", "HEAD"):
            origin = urlsplit(headers.get("origin", ""))
            if origin.scheme not in ("http", "https") or origin.netloc.lower() != host.lower():
                return 403, "this can be asked from the page of this server only"
        return None

    def _known(self, host: str) -> bool:
        """Return whether a Host header names this server, and not by a name that somebody else made up."""
        try:
            found = urlsplit(f"//{host}")
            name, port = (found.hostname or "").lower(), found.port or 80
        except ValueError:
            return False
        if port != self.port or found.username is not None or found.path:
            return False
        if name in LOOPBACK or name == self.host.lower():
            return True
        if self.host in LOOPBACK:
            return False
        return name in (socket.gethostname().lower(), socket.getfqdn().lower()) or (
            self.host in ANY and _is_address(name)
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
