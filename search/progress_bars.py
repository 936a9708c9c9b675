"""Show how far work has come, and the time left: on a terminal, in a notebook, or as plain lines.

A terminal has a line that is kept up to date, a notebook a bar under the cell. Where neither is,
as in a log, a line is printed now and then.
"""

import time
from html import escape
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_S = 10.0
"""Seconds between the lines that are printed where nothing can be kept up to date."""


def stderr_console() -> Console:
    """Return the console that progress is printed to."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Format seconds as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Handle(Protocol):
    """An output of a notebook that can be replaced, as ``IPython.display.DisplayHandle``."""

    def update(self, obj: object) -> None:
        """Show `obj` in place of what was shown."""


class NotebookBar:
    """A bar with a text under a notebook's cell, updated in place; it needs no widget library."""

    def __init__(self, text: str, done: int, total: int) -> None:
        from IPython.display import HTML, display

        self.html = HTML
        self.handle: Handle = display(HTML(bar_html(text, done, total)), display_id=True)

    def update(self, text: str, done: int, total: int) -> None:
        """Show `done` of `total` steps, and a text."""
        self.handle.update(self.html(bar_html(text, done, total)))


def bar_html(text: str, done: int, total: int) -> str:
    """Return a progress bar and a text as HTML."""
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> {escape(text)}'


class Steps:
    """A count of steps that are done, and how long the others take by the pace so far.

    It is entered before the first step. `done` steps are known already and took no time. The pace
    counts from the first new step on, because workers load what they need before it.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, console: Console | None = None
    ) -> None:
        self.what, self.total, self.done = what, total, done
        self.console = console or stderr_console()
        self.said = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.notebook: NotebookBar | None = None
        self.terminal: Progress | None = None

    def __enter__(self) -> "Steps":
        if self.console.is_jupyter:
            self.notebook = NotebookBar(self.text(), self.done, self.total)
        elif self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            self.terminal = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self.terminal.add_task(self.what, total=self.total, completed=self.done)
            self.terminal.start()
        else:
            self._print()
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal is not None:
            self.terminal.stop()

    def limit(self, total: int, why: str) -> None:
        """Expect `total` steps at most, and say so once, with the reason."""
        if total < self.total:
            self.console.print(f"at most {total} of {self.total}: {why}", markup=False)
            self.total = total
            if self.terminal is not None:
                self.terminal.update(self.terminal.task_ids[0], total=total)

    def advance(self, count: int = 1) -> None:
        """Note that `count` further steps are done."""
        self.done += count
        if self.first is None:
            self.first = time.monotonic(), self.done
        if self.notebook is not None:
            self.notebook.update(self.text(), self.done, self.total)
        elif self.terminal is not None:
            self.terminal.advance(self.terminal.task_ids[0], count)
        elif time.monotonic() - self.said >= PLAIN_S:
            self._print()

    def text(self) -> str:
        """Describe the steps as ``scoring edits: 12/60, about 0:40 left``."""
        began, before = self.first or (0.0, self.done)
        new, left = self.done - before, self.total - self.done
        pace = (time.monotonic() - began) / new if new else 0.0
        rest = f", about {clock(pace * left)} left" if new and left > 0 else ""
        return f"{self.what}: {self.done}/{self.total}{rest}"

    def _print(self) -> None:
        self.said = time.monotonic()
        self.console.print(self.text(), markup=False)
