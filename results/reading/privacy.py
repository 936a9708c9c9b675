"""Leave out of a study what tells of the machines it ran on: host names and absolute paths."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sharetune.results.reading.study import StudyRecord

OF_HOSTS = {"host", "pid"}
"""Keys of circumstances that name a machine or a process."""

FOLDERS = re.compile(r"""(?<![\w.:/~<-])~?/(?:[^/\s'"<>|:,;]+/)*(?=[^/\s'"<>|:,;])""")
"""The folders of an absolute path inside a text, all but its last part; no closing tag is one."""

TEXTS = ("reason", "error_message", "error_traceback")
"""Columns of texts that may hold paths."""

DATA = ("circumstances", "latency_conditions")
"""Columns of plain data that may name a machine."""


def published(study: StudyRecord) -> StudyRecord:
    """Return the study without host names, process numbers and the folders of absolute paths."""
    frame = study.frame.copy()
    for name in (*TEXTS, *DATA):
        if name in frame:
            frame[name] = [without_private(value) for value in frame[name]]
    return replace(
        study,
        frame=frame,
        circumstances=without_private(study.circumstances),
        config=without_private(study.config),
    )


def without_private(value: Any) -> Any:
    """Return plain data without private keys, and its texts without folders."""
    if isinstance(value, Mapping):
        return {k: without_private(v) for k, v in value.items() if k not in OF_HOSTS}
    if isinstance(value, list | tuple):
        return [without_private(each) for each in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value
