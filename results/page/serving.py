"""Serve a run's report on localhost, rendered anew whenever the search has written something.

It reads the same storage as the report and writes nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sharetune.results.page.report import render
from sharetune.results.reading.location import Location
from sharetune.results.reading.privacy import published
from sharetune.results.reading.study import one_run, read_study
from sharetune.spaces.errors import RunError

HOST = "127.0.0.1"
"""Address that only this machine can reach."""

IDLE_S = 10.0
"""Seconds after which a connection that sends nothing is closed."""

LOCAL_NAMES = {"127.0.0.1", "localhost"}
"""Host names a request may carry; others could be another site's name pointed here."""


class LivePage:
    """The page of a run, rendered once for each state of its storage."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._state: str | None = None
        self._page = b""

    def state(self) -> str:
        """Return a text that changes whenever the storage does."""
        with one_run(self.run):
            return Location.of(self.run).state()

    def page(self) -> bytes:
        """Return the page of the current state. Raises :class:`RunError` if it cannot be read."""
        with self._lock:
            state = self.state()
            if state != self._state:
                with one_run(self.run):
                    self._page = render(published(read_study(self.run)), live=state).encode()
                self._state = state
            return self._page


@contextmanager
def serving(run: Path, port: int) -> Iterator[str]:
    """Serve the run's page in the background and yield its address; `port` 0 takes a free one.

    Only this machine can reach it, and only under a local name: a page of another site cannot
    read it through a name that points here. Raises :class:`RunError` if `run` holds no study or
    the port is taken.
    """
    live = LivePage(run)
    live.page()
    server = _bound(port, _handler(live))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise RunError(
            f"port {port} cannot be used: {error.strerror}", "choose another with --port"
        ) from error


def _handler(live: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answer with the page or its state; a connection that asks for nothing is closed."""

        timeout = IDLE_S

        def do_GET(self) -> None:
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in LOCAL_NAMES:
                self.send_error(HTTPStatus.FORBIDDEN, "only local names are served")
            elif self.path == "/":
                self._answer_with(live.page, "text/html; charset=utf-8")
            elif self.path == "/state":
                self._answer_with(lambda: live.state().encode(), "text/plain")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer_with(self, make: Callable[[], bytes], kind: str) -> None:
            try:
                body = make()
            except RunError as error:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "busy", error.message)
                return
            with suppress(ConnectionError):  # the page was closed meanwhile
                self._answer(body, kind)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the terminal belongs to the search."""

    return Handler
