"""Models of the Hugging Face hub: a name becomes a folder, a folder is uploaded. Only files that `outgrow` reads are fetched.

Nothing that could run code is ever fetched: no pickle, no Python.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from outgrow.errors import CheckpointError

_FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "vocab.bpe", "bpe.codes")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def local_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """A folder as it is; `ORGANISATION/NAME` of the hub, where no such folder is here, fetched or from the cache.

    Raises CheckpointError where there is neither.
    """
    folder = Path(name)
    if folder.exists() or not _NAME.fullmatch(str(name)):
        return folder
    from huggingface_hub import snapshot_download

    try:
        cached = not _has_address()
        return Path(
            snapshot_download(
                str(name), revision=revision, allow_patterns=list(_FETCHED), local_files_only=cached
            )
        )
    except OSError as error:  # the hub's own errors are all of this kind
        raise CheckpointError(
            f"{name} is no folder here, and the hub did not give it",
            got=(str(error) or type(error).__name__).splitlines()[0],
            fix=f"check name and network (`hf auth login`), or `hf download {name} --local-dir FOLDER` and name the folder",
        ) from error


def _has_address() -> bool:
    """Whether the hub's name is known here. Where it is not, the library would try again for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def upload_folder(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Make the hub's repository `name` if it is not there, and upload a folder to it; its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message))
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"the hub did not take {name}", got=str(error).strip().splitlines()[0], fix="see `hf auth login`"
        ) from error
