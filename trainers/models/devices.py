"""Name the one device that a shared model lies on: its layers read banks that lie there too."""

from typing import Any

import torch

from sharetune.spaces.errors import ModelError

MULTI_DEVICE_MAPS = {"balanced", "balanced_low_0", "sequential"}
"""Values of `device_map` that spread a model over devices, which banks do not support."""


def one_device(device_map: object) -> Any:
    """Return the one device that a `device_map` names; ``auto`` is the accelerator, if any.

    Raises :class:`ModelError` if it names several.
    """
    if device_map == "auto":
        found = torch.accelerator.current_accelerator()
        return found if found is not None and torch.accelerator.is_available() else None
    devices = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
    if len(devices) != 1 or devices & MULTI_DEVICE_MAPS:
        raise ModelError(
            f"a shared model lies on one device, but got device_map={device_map!r}",
            "name one, such as device_map='cuda:0'",
        )
    return devices.pop()
