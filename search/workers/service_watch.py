"""Notice that Ray's own processes are gone, before Ray waits for them or ends this process.

Without the cluster's control service, or the raylet that starts this machine's workers, nothing can
be trained any more. Ray asks the control service questions that nothing interrupts, and ends the
process without an error after a minute.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from sharetune.spaces.errors import KEPT, ClusterLost, SharetuneError

KNOCK_S = 1.0
"""Seconds between two attempts to connect."""

ANSWER_S = 5.0
"""Seconds in which a process that is there takes a connection."""

PATIENCE_S = 5.0
"""Seconds without a connection after which a process counts as gone: one may be busy, or come back.
"""

STUCK_S = 15.0
"""Seconds after a loss in which a search that is not stuck in a question to Ray ends by itself."""

Knock = Callable[[], None]
"""Connects to a process; raises ``OSError`` if it is gone."""

LastWords = Callable[[ClusterLost], None]
"""Says why the process ends; it is called in another thread than the main one."""


def knock_at(address: str) -> Knock:
    """Return what connects to ``host:port``, or to a socket's path."""

    def knock() -> None:
        if os.path.isabs(address):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_S)
                connection.connect(address)
            return
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            pass

    return knock


class ServiceWatch:
    """A context whose thread knocks at `services`, by their names.

    Once one is gone, whatever error ends the context becomes :class:`ClusterLost`. Where nothing
    ends it, since Ray waits for what is gone, the thread says `last_words` and ends the process
    with exit code 2.
    """

    def __init__(self, services: Mapping[str, Knock], last_words: LastWords) -> None:
        self.services, self.last_words = services, last_words
        self.lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ServiceWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if isinstance(error, SharetuneError):
            return
        if isinstance(error, Exception):  # it may have come sooner than the thread's patience ends
            self.lost = self.lost or self.refusing()
        if error is None or isinstance(error, Exception | KeyboardInterrupt):
            self.stop_if_lost()

    def stop_if_lost(self) -> None:
        """Raise :class:`ClusterLost` if a process is gone."""
        if self.lost is not None:
            raise self._error() from None

    def stop_if_refused(self) -> None:
        """Raise :class:`ClusterLost` if a process is not there, and does not come back."""
        until = time.monotonic() + PATIENCE_S
        while (name := self.refusing()) is not None:
            if time.monotonic() > until:
                self.lost = name
                self.stop_if_lost()
            time.sleep(KNOCK_S)

    def refusing(self) -> str | None:
        """Return the name of a process that is not there at this moment, or None."""
        for name, knock in self.services.items():
            try:
                knock()
            except (ConnectionRefusedError, FileNotFoundError):
                return name
            except OSError:  # it is there, and busy
                continue
        return None

    def _error(self) -> ClusterLost:
        return ClusterLost(f"Ray's {self.lost} is gone, and with it the workers", KEPT)

    def _watch(self) -> None:
        answered = dict.fromkeys(self.services, time.monotonic())
        while not self._ended.wait(KNOCK_S):
            for name, knock in self.services.items():
                with suppress(OSError):
                    knock()
                    answered[name] = time.monotonic()
                if time.monotonic() - answered[name] > PATIENCE_S:
                    self.lost = name
                    if not self._ended.wait(STUCK_S):
                        self.last_words(self._error())
                        os._exit(2)
                    return
