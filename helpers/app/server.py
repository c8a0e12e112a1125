"""Serve the page, to this machine alone unless a password is set. It never asks any other host for anything.

Nothing heavy is imported here, so that a wrong setting is refused in a moment.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from .. import InputError
from ..models.sources import find_source
from ..words.machine import share_memory
from ..words.settings import ModelSettings

if TYPE_CHECKING:
    from .desk import Desk

LOOPBACK = ("127.0.0.1", "localhost")
FIRST_PORT, PORTS = 7860, 100  # tried in turn if none is asked for
USER = "superscopes"
PASSWORD = "SUPERSCOPES_PASSWORD"  # the environment variable
FOLDER = "superscopes-"  # then the number of the server's process
CACHE = "cache"  # where Gradio puts what is uploaded, in that folder


class Server:
    """The page, served.

    Attributes:
        url: where.
        desk: the model and its queue.

    Args:
        port: the first free one from 7860 on if left out.
        password: needed for an address that others can reach.
        root_url: where visitors reach the server through a proxy, like https://lab.example/superscopes; the proxy
            passes on what comes after it.

    Raises:
        InputError: no such model; or a dtype, device, port, address or root URL that can't be used.
    """

    def __init__(
        self, desk: Desk, port: int | None = None, address: str = "127.0.0.1", password: str = "", root_url: str = ""
    ):
        check_address(address, password)
        proxy = check_root_url(root_url)
        desk.check()
        share_memory()
        self.desk, self.port = desk, find_port(port, address)
        _remove_what_killed_servers_left()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")).resolve()
        _prepare_gradio(self._folder)
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from .guard import Guard
        from .page import Page
        from .theme import theme
        from .vector_settings import MOST_BYTES
        from .view import STYLE

        exports = self._folder / "exports"
        exports.mkdir()
        self._page = Page(desk, exports)
        self._blocks = self._page.blocks
        names = [*LOOPBACK, address, *filter(None, [urlsplit(root_url).hostname])]
        hosts = ["*"] if address == "0.0.0.0" else names  # or DNS rebinding could reach it
        layers = [Middleware(Guard, folder=self._folder, host=proxy), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
        self._blocks.queue(max_size=200, default_concurrency_limit=8, api_open=False)
        self._blocks._queue.sleep_when_free = 0.02  # not a thousand times a second, beside a model on the same cores
        self._blocks._queue.progress_update_sleep_when_free = 1.0
        _, self.url, _ = self._blocks.launch(
            server_name=address, server_port=self.port, share=False, inline=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, auth=(USER, password) if password else None, strict_cors=True, ssr_mode=False,
            root_path=root_url.rstrip("/") or None, mcp_server=False, enable_monitoring=False, run_history=False, pwa=False, show_error=False,
            allowed_paths=[str(exports)], max_file_size=MOST_BYTES,
            footer_links=["api"], theme=theme(), css=STYLE, app_kwargs={"middleware": layers},
        )  # fmt: skip
        desk.open()

    def close(self) -> None:
        """Stop serving, free the model, and remove what was written for downloads."""
        self._blocks.close(verbose=False)
        self.desk.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(model: str, dtype: str, device: str, port: int | None, address: str, root_url: str = "") -> int:
    """Serve the page until it is stopped, with the password of the environment; the command `app`.

    Returns:
        The exit code: 2 bad input, 130 stopped by Ctrl-C. SIGTERM exits with 143.
    """
    print("starting (a few seconds) …", flush=True)  # importing the libraries alone takes some
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server, password = None, os.environ.get(PASSWORD, "")
    try:
        settings = ModelSettings.of({"model": model, "dtype": dtype, "device": device})
        check_address(address, password)
        check_root_url(root_url)
        find_port(port, address)
        find_source(settings.model, settings.source_options)
        from .desk import Desk  # all that needs no model is checked by now

        server = Server(Desk(model, dtype, device), port, address, password, root_url)
        who = f" (user {USER}, password as set)" if password else ""
        print(f"Superscopes is at {root_url or server.url}{who}; Ctrl-C stops it.", flush=True)
        threading.Event().wait()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        if server:
            server.close()


def show(model: str, dtype: str = "float32", port: int | None = None, height: int = 1100) -> Server:
    """Serve the page from a notebook and show it in a frame; one that was shown before is closed.

    Args:
        height: of the frame, in pixels.

    Raises:
        InputError: no such model, an unknown dtype, or a port in use.
    """
    from IPython.display import IFrame, display

    from .desk import Desk

    global _shown
    if _shown:
        _shown.close()
    _shown = Server(Desk(model, dtype), port)
    display(IFrame(_shown.url, width="100%", height=height))
    return _shown


_shown: Server | None = None


def check_address(address: str, password: str) -> None:
    """Check that an address which others can reach is protected.

    Raises:
        InputError: it has no password, or a short one.
    """
    if address not in LOOPBACK and len(password) < 8:
        raise InputError(
            "address", address, f"others can reach it, so it needs a password of 8 letters or more in {PASSWORD}"
        )


def check_root_url(root_url: str) -> str:
    """Return the host, with its port if it has one, of the URL that a proxy is reached by; "" without one.

    Raises:
        InputError: not a whole http or https URL.
    """
    try:
        parts = urlsplit(root_url)
        is_whole = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        is_whole = False
    if root_url and not is_whole:
        raise InputError("root_url", root_url, "expected a whole URL, like https://lab.example/superscopes")
    return parts.netloc.rpartition("@")[2] if root_url else ""


def find_port(port: int | None, address: str = "127.0.0.1") -> int:
    """Return the port asked for, or the first free one from 7860 on.

    Raises:
        InputError: in use, or none is free.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError("port", port, "expected 1 to 65535")
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, candidate))
                return candidate
            except OSError as error:
                reason = str(error.strerror or error).lower()
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    why = f"can't be used ({reason}); expected an address of this machine, or 0.0.0.0"
                    raise InputError("address", address, why) from error
                if port is not None:
                    why = f"can't be used ({reason}); another one is --port {port + 1}"
                    raise InputError("port", port, why) from error
    raise InputError("port", f"{FIRST_PORT}–{FIRST_PORT + PORTS - 1}", "all in use; --port names another")


def _remove_what_killed_servers_left() -> None:
    """Remove the folders of servers that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        process = folder.name.removeprefix(FOLDER).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)  # another user's stays


def _prepare_gradio(folder: Path) -> None:
    """Set what Gradio reads from the environment when it is imported."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_TEMP_DIR": str(folder / CACHE),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("NO_PROXY", "no_proxy"):  # the server asks itself whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    for name in ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_SERVER_NAME", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)
