"""End a search on Ctrl-C and on SIGTERM alike.

Raised at any instant, the exception may find native code of a library half way through a call
and abort the process; where a loop has safe places, it is raised there.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a search: Ctrl-C, and what cluster managers send."""


AT_ONCE = (
    "stopping: what runs is ended, and what is finished is kept; press Ctrl-C again to leave now"
)
"""Line that is printed as soon as a signal has come that ends a search at once."""

WHEN_SAFE = (
    "stopping: at the end of the step that runs, and what is finished is kept; press Ctrl-C again "
    "to stop now"
)
"""The same for a signal that ends a search where it is safe to."""


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` inside as soon as either signal arrives."""
    asked = False

    def interrupt(*_: object) -> None:
        nonlocal asked
        if not asked:
            _say(AT_ONCE)
        asked = True
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def stopped_when_safe() -> Iterator[Callable[[], None]]:
    """Yield a function that raises ``KeyboardInterrupt`` once a signal has arrived.

    A second signal raises it at once.
    """
    asked = False

    def remember(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        _say(WHEN_SAFE)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    with _handled_by(remember):
        yield stop_if_asked


def _say(line: str) -> None:
    """Print a line to stderr, unless the signal came in the middle of another one."""
    with suppress(RuntimeError):
        print(f"\n{line}", file=sys.stderr, flush=True)


@contextmanager
def _handled_by(handler: Callable[..., None]) -> Iterator[None]:
    handled = [kind for kind in SIGNALS if signal.getsignal(kind) is not signal.SIG_IGN]
    try:
        before = {kind: signal.signal(kind, handler) for kind in handled}
    except ValueError:  # not in the main thread, where signals are nobody's business
        yield
        return
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier or signal.SIG_DFL)  # None: not set by Python
