"""Print by how many bytes a session of onnxruntime raises resident memory, after one run.

python benchmarks/session_memory.py FOLDER [--prepacking]

In a process of its own, whose libraries are loaded before; one example of 16 tokens.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime


def resident() -> int:
    """Return this process's resident bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def main(folder: str, prepacking: bool) -> None:
    """Load the file and run it once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not prepacking:
        options.add_session_config_entry("session.disable_prepacking", "1")
    before = resident()
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
    given = {}
    for node in session.get_inputs():
        if node.name.startswith("past_key_values."):
            given[node.name] = np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
        else:
            given[node.name] = np.ones((1, 16), np.int64)
    session.run(None, given)
    print(resident() - before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--prepacking", action="store_true")
    asked = parser.parse_args()
    main(asked.folder, asked.prepacking)
