"""Who may ask for what: the layer before Gradio's own."""

import os
from contextlib import suppress
from pathlib import Path

from .logins import Logins, TooMany
from .server import CACHE
from .vector_settings import MOST_BYTES

POLICY = (  # Gradio's page needs inline scripts and makes functions of text; nothing is loaded from other hosts
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self' http://127.0.0.1:* http://localhost:*"  # a notebook shows it in a frame
)
OPEN = (  # what the page and the client ask for, of Gradio's many routes
    "assets/", "static/", "svelte/", "theme.css", "favicon.ico", "manifest.json", "robots.txt", "config", "info",
    "queue/", "call/", "run/predict", "heartbeat/", "startup-events", "app_id", "cancel", "reset", "user",
    "token", "login", "logout", "upload",
)  # fmt: skip
ENVELOPE = 10_000  # bytes around a file that is uploaded
MOST_UPLOADED = 256_000_000  # bytes of all files that visitors have uploaded and that are still kept


FORWARDED = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")  # Gradio would write them into its pages


class Guard:
    """An ASGI layer: which paths are served, which pages may ask, and what a browser may do with the answer.

    Args:
        folder: the only one that files are served from.
        host: that a proxy in front of the server is reached by; pages of it may ask, too.
    """

    def __init__(self, app, folder: Path, host: str = ""):
        self.app, self.files, self.host, self.logins = app, f"file={folder}/", host, Logins()
        self.cache = folder / CACHE

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = scope | {"headers": [header for header in scope["headers"] if header[0].lower() not in FORWARDED]}
        begun = None

        async def send_with_policy(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        if refused := self._refused(scope):
            return await refused(scope, receive, send_with_policy)
        if scope["method"] != "POST" or _path(scope) != "login":
            try:
                return await self.app(scope, receive, send_with_policy)
            except KeyError:  # Gradio looks a function up by the number that the visitor sent
                if begun:
                    raise
                return await _plain("no such function", 400)(scope, receive, send_with_policy)
        address = (scope.get("client") or ("",))[0]
        try:
            async with self.logins.turn(address):
                await self.app(scope, receive, send_with_policy)
                self.logins.note(address, failed=begun is None or begun >= 400)
        except TooMany:
            await _plain("too many attempts; try again in a while", 429)(scope, receive, send_with_policy)

    def _refused(self, scope):
        """Return the answer to a request that isn't served; None if it is."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin, path = headers.get("origin"), _path(scope)
        if origin and scope["method"] not in ("GET", "HEAD"):
            if origin.partition("://")[2] not in {headers.get("host", ""), self.host} - {""}:
                return _plain("asked by a page of another origin", 403)
        if path == "upload" and (refused := self._upload_refused(headers)):
            return refused
        if path and (".." in path or not path.startswith((*OPEN, self.files))):
            return _plain("not served here", 403)
        return None

    def _upload_refused(self, headers):
        length = headers.get("content-length", "")
        if not length.isdigit():
            return _plain("how long is it?", 411)
        if int(length) > MOST_BYTES + ENVELOPE:
            return _plain(f"at most {MOST_BYTES:,} bytes", 413)
        if _bytes_in(self.cache) > MOST_UPLOADED:
            return _plain("too many files are kept here; try again in an hour", 507)
        return None


def _bytes_in(folder: Path) -> int:
    """Count the bytes of all files in a folder; those that Gradio removes meanwhile are none."""
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(inside, name)).st_size
    return total


def visitor(request) -> str:
    """Name who asks, for a share of the queue: an address; on this machine, where a proxy may be, a page or a client."""
    host = request.client.host if request and request.client else ""
    return f"{host} {request.session_hash}" if request and host in ("", "127.0.0.1", "::1") else host


def _path(scope) -> str:
    return scope["path"].strip("/").removeprefix("gradio_api").strip("/")


def _plain(text: str, status: int):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status)
