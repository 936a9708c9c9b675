"""Describe this machine and installation: versions, devices, memory, disk, Ray, and extras.

Nothing is changed, and only libraries are imported that are installed.
"""

import os
import platform
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("torch", "transformers", "optuna", "ray", "datasets", "accelerate", "numpy")
"""Libraries whose versions a report of a fault needs."""

EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")
"""The part of a requirement that names the extra it belongs to."""

NAME = re.compile(r"[A-Za-z0-9._-]+")
"""The name at the beginning of a requirement."""

OF_DEVELOPERS = ("dev",)
"""Extras that users do not need."""

GIB = 2**30
"""Bytes in a GiB."""

MEMORY = Path("/proc/meminfo")
"""The file in which Linux reports free and total memory, in kB."""


def own_version() -> str:
    """Return the version of this package; a checkout that is not installed has none."""
    try:
        return version("sharetune")
    except PackageNotFoundError:
        return "not installed: an uninstalled checkout"


def diagnosis(run_folder: Path) -> Iterator[str]:
    """Yield one line for each fact; `run_folder` is where runs are to be written."""
    yield f"sharetune     {own_version()}"
    yield f"python        {platform.python_version()}, {sys.executable}"
    yield f"system        {platform.system()} {platform.release()}, {platform.machine()}"
    for name in LIBRARIES:
        yield f"{name:12}  {_version(name)}"
    yield f"processors    {os.cpu_count()}"
    yield f"GPUs          {_gpus()}"
    yield f"free memory   {_free_memory()}"
    yield f"free disk     {_free_disk(run_folder)}"
    yield f"Ray           {_ray()}"
    yield f"encoding      {sys.stdout.encoding}"
    for extra, missing in sorted(missing_of_extras().items()):
        what = f"missing {', '.join(missing)}: pip install 'sharetune[{extra}]'"
        yield f"[{extra}]".ljust(13) + " " + (what if missing else "installed")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _gpus() -> str:
    if find_spec("torch") is None:
        return "not known without torch"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    free = [torch.cuda.mem_get_info(number)[0] / GIB for number in range(count)]
    found = [f"{name}, {gib:.1f} GiB free" for name, gib in zip(names, free, strict=True)]
    return "; ".join(found) or "none that torch can use; trials run on processors"


def _free_memory() -> str:
    if not MEMORY.exists():
        return "not known on this system"
    sizes = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    free, total = (int(sizes[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    return f"{free / GIB:.1f} GiB of {total / GIB:.1f} GiB"


def _free_disk(folder: Path) -> str:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    writable = "" if os.access(place, os.W_OK) else ", and it cannot be written"
    return f"{usage.free / GIB:.1f} GiB of {usage.total / GIB:.1f} GiB at {place}{writable}"


def _ray() -> str:
    if find_spec("ray") is None:
        return "missing; searches can run with --set executor=local"
    address = os.environ.get("RAY_ADDRESS")
    joined = (
        f"RAY_ADDRESS is {address}" if address else "none is joined; each search starts its own"
    )
    return f"{joined}; a cluster is joined with --address"


def missing_of_extras() -> dict[str, list[str]]:
    """Return the packages that are missing for each extra; none where it is installed."""
    try:
        lines = requires("sharetune") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        extra, name = EXTRA.search(line), NAME.match(line)
        if extra is None or name is None or extra[1] in OF_DEVELOPERS:
            continue
        absent = name[0] != "sharetune" and _version(name[0]) == "missing"
        found[extra[1]] += [name[0]] if absent else []
    return dict(found)
