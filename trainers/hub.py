"""Download shared models from the hub, and upload exports to it, by huggingface_hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from sharetune.spaces.errors import ModelError, RunError, SharetuneError
from sharetune.spaces.paths import require_model
from sharetune.spaces.texts import shortened

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""A name on the hub: that of a user or an organisation, and that of a model."""

NEEDED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
"""Files of a repository that a model is loaded from."""


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """Return `folder` itself if it exists, else the downloaded copy of the hub's model so named.

    Raises :class:`ModelError` if it can be neither.
    """
    path = Path(folder)
    require_model(str(folder))
    if path.exists() or not REPOSITORY.fullmatch(str(folder)):
        return path
    hint = "name a folder, or a model of the hub as user/name; `hf auth login` opens private ones"
    with _one_error(f"{folder} is no folder here, and the hub does not give it", ModelError, hint):
        found = snapshot_download(str(folder), revision=revision, allow_patterns=list(NEEDED))
    return Path(found)


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload the files of an export in `folder`; return the address of the model's page.

    The repository is made if there is none. Raises :class:`RunError` if the hub refuses.
    """
    if not REPOSITORY.fullmatch(repository):
        raise RunError(
            f"a model of the hub is named user/name, but got {repository!r}",
            "for example --push your-name/your-model",
        )
    hint = f"`hf auth login` with a token that may write; the files stay in {folder}"
    with _one_error(f"{repository} was not uploaded", RunError, hint):
        api = HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload export")
    return str(made)


@contextmanager
def _one_error(what: str, kind: type[SharetuneError], hint: str) -> Iterator[None]:
    try:
        yield
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise kind(f"{what}: {reason}", hint) from None
