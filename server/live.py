"""The run's page while it goes on: made anew for whoever asks, on loopback only, and nothing else is served."""

import contextlib
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "127.0.0.1"
REFRESH_SECONDS = 5
_OWN_NAMES = ("127.0.0.1", "localhost")
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class LivePage:
    """Serves one page at ``http://127.0.0.1:PORT/`` in a thread of its own.

    Whatever else is asked for is not found: no path of a request is ever looked up. A request that names another host is
    refused, so that no page of the internet can read this one under a name of its own that leads here.

    Args:
        port: 0 takes one that is free.
        page: makes the page.

    Raises:
        OSError: if the port cannot be used.
    """

    def __init__(self, port: int, page: Callable[[], str]) -> None:
        self._server = ThreadingHTTPServer((HOST, port), _handler(page))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="live page", daemon=True)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self._server.server_port}/"

    def __enter__(self) -> "LivePage":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(page: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in _OWN_NAMES:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._send(page().encode())

        def _send(self, content: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # whoever asked has left
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nobody needs to know who looked."""

        def version_string(self) -> str:
            return "mtmd"

    return Handler
