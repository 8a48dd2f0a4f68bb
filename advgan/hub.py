"""Checkpoints to the Hugging Face Hub and back, or to a folder in its place: three files, and never a pickle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from advgan.checkpoints import summary
from advgan.errors import InputError, reason
from advgan.storage import check_writable, write_aside

FILES = ("config.json", "model.safetensors", "README.md")  # what a checkpoint is; the card may be missing
DERIVED = ("generator.onnx", "generator.pt2")  # what advgan export makes of one: it goes with the weights
TOKEN = "a token comes from `hf auth login` or the environment's HF_TOKEN"


def push(folder: Path, repo: str, *, public: bool = False, force: bool = False) -> str:
    """Send the checkpoint in `folder` to `repo`, "user/model" on the Hub or a folder; where it can be seen there.

    A repository that is made for it is private unless `public`; what one holds already gets a new commit. A folder
    that is there is replaced with `force` only. Raises InputError for a damaged checkpoint, and where the Hub cannot be
    reached or does not let us.
    """
    check(folder)
    names = publishable(folder)
    if is_local(repo):
        _copy(folder, Path(repo).expanduser(), force, names)
        return repo
    try:
        address = HfApi().create_repo(repo, private=not public, exist_ok=True)
        HfApi().upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, commit_message="A checkpoint of advgan"
        )
    except Exception as error:
        raise refused(repo, error) from None
    return str(address)


def publishable(folder: Path) -> list[str]:
    """The names of a checkpoint's files that are regular files of its folder, not links that lead out of it. Raises
    InputError for a configuration or weights behind such a link.
    """
    present = [name for name in FILES if os.path.isfile(folder / name)]
    inside = [name for name in present if (folder / name).resolve().is_relative_to(folder.resolve())]
    if missing := [name for name in FILES[:2] if name not in inside]:
        raise InputError(
            f"{folder / missing[0]} is a link that leads out of the folder, expected a file of its own: copy it there"
        )
    return inside


def left_out(folder: Path) -> list[str]:
    """The names of the files in a checkpoint's folder that `push` does not publish."""
    names = publishable(folder)
    return sorted(path.name for path in folder.iterdir() if path.name not in names)


def pull(repo: str, folder: Path, *, revision: str | None = None, force: bool = False) -> None:
    """Fetch the checkpoint `repo`, "user/model" on the Hub or a folder, into `folder`; nothing but its three files.

    What is there is replaced with `force` only. Raises InputError as `push`, and for a repository without safetensors.
    """
    if is_local(repo):
        if revision is not None:
            raise InputError(f"a folder has no revisions, expected none, got {revision}")
        _copy(Path(repo).expanduser(), folder, force)
        return
    _free(folder, force)
    try:
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        raise refused(repo, error) from None
    _copy(found, folder, force)  # of links into the Hub's cache


def is_local(repo: str) -> bool:
    """Whether `repo` is a folder: one that is there, or a name that begins like a path."""
    return repo.startswith(("./", "../", "/", "~")) or os.path.isdir(repo)


def check(folder: Path) -> None:
    """Raise InputError unless `folder` holds a checkpoint, whole: its configuration and safetensors."""
    if missing := [name for name in FILES[:2] if not os.path.isfile(folder / name)]:
        there = sorted(path.name for path in folder.glob("*")) if os.path.isdir(folder) else []
        found = ", ".join(there[:5]) or "nothing"
        raise InputError(f"no checkpoint in {folder}: {' and '.join(missing)} expected (no pickles), found {found}")
    summary(folder)


def refused(repo: str, error: Exception) -> Exception:
    """What the Hub's error means for a person; the error itself where neither the Hub nor the network made it."""
    network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")  # as the Hub's version has it
    if not network and not isinstance(error, (HfHubHTTPError, HFValidationError, OSError)):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return InputError(f"{repo!r} is no repository, expected USER/MODEL or a folder like ./model")
    if status in (401, 403) or isinstance(error, GatedRepoError):
        return InputError(f"the Hub does not let you at {repo} ({status}): {TOKEN}")
    if isinstance(error, RepositoryNotFoundError):
        return InputError(f"the Hub has no {repo}, or does not show it to you: {TOKEN}")
    if status is None:
        return InputError(f"the Hub cannot be reached for {repo} ({reason(error)}); a folder works offline: ./model")
    return InputError(f"the Hub refuses {repo} ({status}: {reason(error)})")


def _copy(source: Path, folder: Path, force: bool, names: Sequence[str] | None = None) -> None:
    """Copy the files `names` of a checkpoint, None: all that are there."""
    check(source)
    _free(folder, force)
    names = [name for name in FILES if (source / name).is_file()] if names is None else names
    write_aside(folder, lambda aside: [shutil.copyfile(source / name, aside / name) for name in names])


def _free(folder: Path, force: bool) -> None:
    """Raise InputError where something is in the way: --force replaces a checkpoint, and nothing else."""
    check_writable(folder.parent)
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise InputError(f"{folder} is there: --force replaces a checkpoint")
    known = (*FILES, *DERIVED)
    others = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else [folder]
    if others:
        raise InputError(f"{folder} holds more than a checkpoint ({others[0]}), expected another folder")
