"""Who may see and change what: names of the server, the token, and sessions of browsers that gave it."""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "adapeff_session"
SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 1000


@dataclass(frozen=True)
class Access:
    """What a request may do."""

    hosts: tuple[str, ...]
    """Names by which the server may be addressed; empty: any, and every request needs the token."""
    token: str | None
    """What changes need; None: nothing can be changed."""
    _sessions: dict[str, float] = field(default_factory=dict)
    """Session -> when it ends, by the monotonic clock."""

    @property
    def is_open(self) -> bool:
        """Whether everyone who reaches the server may read."""
        return bool(self.hosts)

    def is_for_us(self, request: Request) -> bool:
        """Whether a request names this server; a page of another site reaches it under that site's name."""
        return not self.hosts or _host_name(request) in self.hosts

    def knows(self, request: Request) -> bool:
        """Whether a request bears the token, or the session of a browser that gave it."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given):
            return True
        ends = self._sessions.get(request.cookies.get(COOKIE, ""))
        return ends is not None and time.monotonic() < ends

    def may_change(self, request: Request) -> bool:
        """Whether a request may change jobs: it is known, and does not come from a page of another site."""
        origin = request.headers.get("origin")
        is_own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        return is_own and self.knows(request)

    def open_session(self, given: str) -> str | None:
        """A new session for the bearer of the token; None for others."""
        if not self._is_token(given):
            return None
        moment = time.monotonic()
        for session in [session for session, ends in self._sessions.items() if ends < moment]:
            self._sessions.pop(session, None)
        while len(self._sessions) >= _MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)), None)
        session = secrets.token_urlsafe(32)
        self._sessions[session] = moment + SESSION_SECONDS
        return session

    def close_session(self, request: Request) -> None:
        """End the session of a request."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.strip().encode(), self.token.encode())


def _host_name(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").rstrip(".")
    except ValueError:  # malformed brackets
        return ""
