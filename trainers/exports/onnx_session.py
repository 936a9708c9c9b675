"""Open files of ONNX in onnxruntime so that it holds each weight once, as they do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharetune.trainers.exports.base import FOLDER

PREPACKING = "session.disable_prepacking"
"""onnxruntime's setting without which it holds a second copy of every matrix."""

OPTIONS = f"""import onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("{PREPACKING}", "1")  # else weights are held twice
"""


def load_lines(names: Sequence[str]) -> str:
    """Return Python code that opens files of a folder as :func:`open_session` does."""
    calls = [f'onnxruntime.InferenceSession("{FOLDER}/{name}", options)' for name in names]
    if len(calls) == 1:
        return f"{OPTIONS}model = {calls[0]}"
    lines = (f"{name.split('_')[0]} = {call}" for name, call in zip(names, calls, strict=True))
    return OPTIONS + "\n".join(lines)


def open_session(file: Path, *, threads: int | None = None) -> Any:
    """Return a session of onnxruntime that holds each weight once, as the file does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(PREPACKING, "1")
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(file, options)
