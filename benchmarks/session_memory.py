"""Print by how many bytes a session of onnxruntime raises memory.

    python benchmarks/session_memory.py FOLDER [--prepacking]

Three numbers: of resident memory once the session is made, of the most there was until then, and of
resident memory after one run on 16 tokens. In a process of its own, whose libraries are loaded
before.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

STATUS = Path("/proc/self/status")
"""Linux's numbers of this process."""


def status(name: str) -> int:
    """Return bytes that this process has now (``VmRSS``), or had at most (``VmHWM``)."""
    lines = STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def rises(folder: str, prepacking: bool) -> Iterator[int]:
    """Load the file and run it once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    before = status("VmRSS")
    STATUS.with_name("clear_refs").write_text("5")  # forgets the most there was
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
    yield status("VmRSS") - before
    yield status("VmHWM") - before
    given = {}
    for node in session.get_inputs():
        if node.name.startswith("past_key_values."):
            given[node.name] = np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
        else:
            given[node.name] = np.ones((1, 16), np.int64)
    session.run(None, given)
    yield status("VmRSS") - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--prepacking", action="store_true")
    asked = parser.parse_args()
    print(*rises(asked.folder, asked.prepacking))
