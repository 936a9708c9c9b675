"""Keep what a model's matrices read on training text on disk, once for all workers of a study.

Loaded recordings are mapped into memory: a worker holds what it looks at, not all of them.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sharetune.spaces.whole_files import remove, written_whole
from sharetune.trainers.models.compensation import Moments, Recorded
from sharetune.trainers.training.teachers import locked


def kept_recording(path: Path, record: Callable[[], Recorded]) -> Recorded:
    """Return the recording in `path`; one process makes it with `record`, others wait for it.

    A file that cannot be read is made anew.
    """
    with locked(path.with_suffix("")):
        try:
            return _read(path)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            remove(path)
        made = record()
        with written_whole(path) as draft:
            torch.save(_written(made), draft)
    return _read(path)


def _written(made: Recorded) -> dict[str, object]:
    own = {id(values): _without_rest(values) for values in made.values()}
    return {
        "inputs": {key: own[id(values)] for key, values in made.items()},
        "moments": {key: vars(moments) for key, moments in made.moments.items()},
    }


def _without_rest(values: Tensor) -> Tensor:
    """Return the tensor without what its memory holds beyond it, which would be written too."""
    is_whole = values.untyped_storage().nbytes() == values.nbytes
    return values if is_whole else values.clone()


def _read(path: Path) -> Recorded:
    found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    moments = {key: Moments(**given) for key, given in found["moments"].items()}
    return Recorded(found["inputs"], moments)
