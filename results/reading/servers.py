"""The database servers and plugins that this user has named; a run folder names none.

A run folder may come from anyone, and so may the URL in it: a server of its writer's could ask for
the password that libpq finds in ``PGPASSWORD`` or ``~/.pgpass``. So a URL that only a folder names
is never connected to. A search writes down the URL of its study file, and ``--storage`` that of
another's, in the user's own list. The same holds for plugins, whose code is run.
"""

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from sharetune.spaces.errors import RunError
from sharetune.spaces.whole_files import write_whole

SOCKET = ("/", "@")
"""Begins of the names of sockets' folders, which libpq takes for hosts."""

TLS = ("require", "verify-ca", "verify-full")
"""Values of libpq's `sslmode` that never send anything in clear."""

SERVERS = "servers.txt"
"""The user's list of databases, one URL a line."""

PLUGINS = "plugins.txt"
"""The user's list of plugins, one module or path a line."""


def name_server(url: str) -> None:
    """Add the URL of a database to those that this user's commands may connect to.

    Raises :class:`RunError` if there is no folder of the user's to write it down in.
    """
    _note(SERVERS, url)


def name_plugins(plugins: Sequence[str]) -> None:
    """Add plugins to those whose code this user's commands may run. Raises :class:`RunError`."""
    for plugin in plugins:
        _note(PLUGINS, plugin)


def is_named(url: str) -> bool:
    """Say whether this user has named the database at `url`."""
    return url in _noted(SERVERS)


def require_named_plugins(plugins: Sequence[str], run: Path) -> None:
    """Raise :class:`RunError` if only the run folder names one of the plugins."""
    noted = _noted(PLUGINS) if plugins else []
    for plugin in plugins:
        if plugin not in noted:
            raise RunError(
                f"{run} names a plugin that you have not named: {plugin}",
                f"its code would be run; if you know it, add --plugin {shlex.quote(str(plugin))}",
            )


def require_named(url: str, run: Path) -> None:
    """Raise :class:`RunError` if only the run folder names the database at `url`."""
    if not is_named(url):
        raise RunError(
            f"{run} names a database that you have not named: {url}",
            "a password could go to a stranger's server; if the server is one you know, add "
            f"--storage {shlex.quote(url)}",
        )


def protection(parameters: Mapping[str, str | int | None]) -> dict[str, str]:
    """Return libpq's options that keep a password from being sent in clear.

    `parameters` are those of the URL. A server on this machine may also ask for no password at all;
    any other is spoken to by TLS only.
    """
    if all(map(_is_local, _hosts(parameters))):
        return {"require_auth": "scram-sha-256,none"}
    mode = str(parameters.get("sslmode"))
    return {"require_auth": "scram-sha-256", "sslmode": mode if mode in TLS else "require"}


def _is_local(host: str) -> bool:
    if host == "localhost" or host.startswith(SOCKET):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(parameters: Mapping[str, str | int | None]) -> list[str]:
    """Return the hosts of a URL, which libpq may also take from the environment."""
    found = [
        str(parameters.get(key) or os.environ.get(f"PG{key.upper()}", ""))
        for key in ("host", "hostaddr")
    ]
    service = parameters.get("service") or os.environ.get("PGSERVICE", "")
    named = [host for text in found for host in text.split(",") if host]
    return [*named, *(["a service's"] if service and not named else [])]


def _note(file: str, line: str) -> None:
    noted = _noted(file)
    if line in noted:
        return
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_own(folder):
                write_whole(folder / file, "".join(f"{each}\n" for each in [*noted, line]))
                return
        except OSError:
            continue
    raise RunError(
        f"there is nowhere to note that {line} is yours",
        "set XDG_STATE_HOME to a folder that only you can write to",
    )


def _noted(file: str) -> list[str]:
    return [line for folder in _folders() if _is_own(folder) for line in _lines(folder / file)]


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return


def _folders() -> list[Path]:
    """The user's folder for such lists, and one for users whose home cannot be written to."""
    home = os.environ.get("XDG_STATE_HOME")
    own = Path(home) if home else Path(os.path.expanduser("~")) / ".local" / "state"
    return [own / "sharetune", Path(tempfile.gettempdir()) / f"sharetune-{os.getuid()}"]


def _is_own(folder: Path) -> bool:
    """Say whether only this user can write to the folder."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    is_folder = stat.S_ISDIR(status.st_mode)
    return is_folder and status.st_uid == os.getuid() and not status.st_mode & others
