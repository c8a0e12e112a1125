"""Serve the page, to this machine alone unless a password is set; nothing it does reaches any other host."""

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

from .. import InputError
from .desk import Desk

LOOPBACK = ("127.0.0.1", "localhost")
FIRST_PORT, PORTS = 7860, 100  # tried one after another if none is asked for
USER = "superscopes"
POLICY = (  # Gradio's page needs inline scripts and makes functions of text; nothing comes from elsewhere
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self' http://127.0.0.1:* http://localhost:*"  # a notebook shows it in a frame
)
OPEN = (  # what the page and the client ask for, of Gradio's many routes
    "assets/", "static/", "svelte/", "theme.css", "favicon.ico", "manifest.json", "robots.txt", "config", "info",
    "openapi.json", "queue/", "call/", "run/predict", "heartbeat/", "startup-events", "app_id", "cancel", "reset", "user", "token",
    "login", "logout",
)  # fmt: skip


def prepare_gradio(folder: Path) -> None:
    """Settings that Gradio reads from the environment when it is imported."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("NO_PROXY", "no_proxy"):  # the server asks itself whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    for name in ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_SERVER_NAME", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)


class Guard:
    """An ASGI layer before Gradio's: what may be asked for, by which page, and what a browser may do with the answer."""

    def __init__(self, app, folder: Path):
        self.app, self.files = app, f"file={folder}/"

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        from starlette.responses import PlainTextResponse

        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        path = scope["path"].strip("/").removeprefix("gradio_api").strip("/")
        refused = None
        if origin and scope["method"] not in ("GET", "HEAD") and origin.partition("://")[2] != host:
            refused = PlainTextResponse("asked by a page of another origin", 403)
        elif path and (".." in path or not path.startswith((*OPEN, self.files))):
            refused = PlainTextResponse("not served here", 403)

        async def with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        await (refused or self.app)(scope, receive, with_policy)


class Server:
    """The page, served.

    Attributes:
        url: where.
        desk: the model and its queue.
    """

    def __init__(self, desk: Desk, port: int | None = None, address: str = "127.0.0.1", password: str = ""):
        check_address(address, password)
        desk.check()
        self.desk, self.port = desk, free_port(port, address)
        self._folder = Path(tempfile.mkdtemp(prefix="superscopes-")).resolve()
        prepare_gradio(self._folder)
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from .page import Page
        from .theme import theme
        from .view import STYLE

        exports = self._folder / "exports"
        exports.mkdir()
        self._page = Page(desk, exports)
        self._blocks = self._page.blocks
        hosts = ["*"] if address == "0.0.0.0" else [*LOOPBACK, address]  # else DNS rebinding could reach it
        layers = [Middleware(Guard, folder=self._folder), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
        self._blocks.queue(max_size=200, default_concurrency_limit=8, api_open=False)
        self._blocks._queue.sleep_when_free = 0.02  # not a thousand times a second, beside a model on the same cores
        self._blocks._queue.progress_update_sleep_when_free = 1.0
        _, self.url, _ = self._blocks.launch(
            server_name=address, server_port=self.port, share=False, inline=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, auth=(USER, password) if password else None, strict_cors=True, ssr_mode=False,
            mcp_server=False, enable_monitoring=False, run_history=False, pwa=False, show_error=False,
            allowed_paths=[str(exports)], max_file_size="1mb",
            footer_links=["api"], theme=theme(), css=STYLE, app_kwargs={"middleware": layers},
        )  # fmt: skip
        desk.open()

    def close(self) -> None:
        """Stop serving, let the model go, remove what was written for downloads."""
        self._blocks.close(verbose=False)
        self.desk.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def check_address(address: str, password: str) -> None:
    """Raises InputError for an address that others can reach, without a password."""
    if address not in LOOPBACK and len(password) < 8:
        why = "others can reach it, so it needs a password of 8 letters or more in SUPERSCOPES_PASSWORD"
        raise InputError("address", address, why)


def free_port(port: int | None, address: str = "127.0.0.1") -> int:
    """The port asked for, or the first free one from 7860 on.

    Raises:
        InputError: in use, or none.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError("port", port, "expected 1 to 65535")
    for one in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, one))
                return one
            except OSError as error:
                reason = str(error.strerror or error).lower()
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    why = f"can't be used ({reason}); expected an address of this machine, or 0.0.0.0"
                    raise InputError("address", address, why) from error
                if port is not None:
                    why = f"can't be used ({reason}); another one is --port {port + 1}"
                    raise InputError("port", port, why) from error
    raise InputError("port", f"{FIRST_PORT}–{FIRST_PORT + PORTS - 1}", "all in use; --port names another")


def show(model: str, dtype: str = "float32", port: int | None = None, height: int = 1100) -> Server:
    """Serve the page from a notebook and show it there; one that was shown before is closed.

    Raises:
        InputError: no such model, a dtype that we don't know, or a port in use.
    """
    from IPython.display import IFrame, display

    global _shown
    if _shown:
        _shown.close()
    _shown = Server(Desk(model, dtype), port)
    display(IFrame(_shown.url, width="100%", height=height))
    return _shown


_shown: Server | None = None
