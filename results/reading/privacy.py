"""Leave out of a study what tells of the machines it ran on: host names and absolute paths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharetune.results.reading.study import StudyRecord

OF_HOSTS = {"host", "pid"}
"""Keys of circumstances that name a machine or a process."""

FOLDERS = re.compile(r"""(?<![\w.:/~<-])~?/(?:[^/\s'"<>|:,;]+/)*(?=[^/\s'"<>|:,;])""")
"""The folders of an absolute path inside a text, all but its last part; no closing tag is one."""

HOST = "HOST"
"""Word in place of a machine's name."""

SERVERS = re.compile(r"""(postgres(?:ql)?(?:\+\w+)?://)[^/\s'"?]*""")
"""User, host and port of a database's URL inside a text, behind what stays of it."""

COLUMNS = ("reason", "error_message", "error_traceback", "earlier", "candidate")
"""Columns of texts, and of data that hold texts, in which paths may be."""

OF_MACHINES = ("circumstances", "latency_conditions")
"""Columns of plain data that may name a machine."""

SETTINGS = ("recipe.", "compression.")
"""Beginnings of the names of columns that hold settings, such as a teacher's folder."""


NUMBERS = "biuf"
"""Kinds of columns that hold numbers only."""


def published(study: StudyRecord) -> StudyRecord:
    """Return the study without host names, process numbers and the folders of absolute paths."""
    frame = study.frame.copy()
    hosts = _hosts([study.circumstances, *frame.get("circumstances", ())])
    for name in frame.columns:
        holds_texts = name in (*COLUMNS, *OF_MACHINES) or str(name).startswith(SETTINGS)
        if holds_texts and frame[name].dtype.kind not in NUMBERS:
            frame[name] = [without_private(value, hosts) for value in frame[name]]
    is_below = not Path(study.folder).is_absolute()
    return replace(
        study,
        frame=frame,
        model=without_private(study.model, hosts),
        circumstances=without_private(study.circumstances, hosts),
        config=without_private(study.config, hosts),
        shown_path=study.folder if is_below else Path(study.folder).name,
    )


def _hosts(circumstances: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of the machines that a study ran on, the longest first."""
    found = {str(c["host"]) for c in circumstances if isinstance(c, Mapping) and c.get("host")}
    return tuple(sorted(found - {"localhost"}, key=len, reverse=True))


def without_private(value: Any, hosts: Sequence[str] = ()) -> Any:
    """Return plain data without private keys, and its texts without folders, servers and hosts."""
    if isinstance(value, Mapping):
        return {k: without_private(v, hosts) for k, v in value.items() if k not in OF_HOSTS}
    if isinstance(value, list | tuple):
        return [without_private(each, hosts) for each in value]
    return _without_places(value, hosts) if isinstance(value, str) else value


def _without_places(text: str, hosts: Sequence[str]) -> str:
    for host in hosts:
        text = re.sub(rf"(?<!\w){re.escape(host)}(?!\w)", HOST, text) if host in text else text
    if "/" not in text:
        return text
    return FOLDERS.sub("", SERVERS.sub(rf"\1{HOST}", text))
