"""Who may ask for what: the layer before Gradio's own."""

from pathlib import Path

POLICY = (  # Gradio's page needs inline scripts and makes functions of text; nothing is loaded from other hosts
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self' http://127.0.0.1:* http://localhost:*"  # a notebook shows it in a frame
)
OPEN = (  # what the page and the client ask for, of Gradio's many routes
    "assets/", "static/", "svelte/", "theme.css", "favicon.ico", "manifest.json", "robots.txt", "config", "info",
    "openapi.json", "queue/", "call/", "run/predict", "heartbeat/", "startup-events", "app_id", "cancel", "reset", "user",
    "token", "login", "logout",
)  # fmt: skip


class Guard:
    """An ASGI layer: which paths are served, which pages may ask, and what a browser may do with the answer.

    Args:
        folder: the only one that files are served from.
    """

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

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        await (refused or self.app)(scope, receive, send_with_policy)
