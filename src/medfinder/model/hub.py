"""Checkpoints by name: the packaged one, a folder, or a repository of the Hugging Face Hub.

A repository is fetched when it is named, file by file as its ``config.json`` lists them, and kept in
the Hub's cache; ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and the Hub's own sign-in hold.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfinder.errors import InputError, MedFinderError, Mismatch, MissingExtra
from medfinder.model.checkpoint import (
    CARD,
    CONFIG,
    LIBRARY,
    TRAINING,
    check_files,
    load_checkpoint,
    load_encoder_from,
    read_checkpoint,
)
from medfinder.model.encoder import EncoderEntry, encoders

if TYPE_CHECKING:
    from medfinder.model.dual_stream import DualStream

PACKAGED = "medfinder"
FOLDER = Path(__file__).parent / "checkpoints" / "small"
"""Of the packaged checkpoint."""
HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE = re.compile(r"\w[\w.-]*")  # no folders, nothing hidden


class Place(NamedTuple):
    """Where a checkpoint lies.

    Attributes:
        folder: Holds it.
        where: What leads to the same checkpoint again: the folder's full path, or the repository
            with the commit, ``owner/name@commit``.
    """

    folder: Path
    where: str


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> "DualStream":
    """Load a model by name.

    Args:
        name: "medfinder" for the packaged checkpoint, a folder, or a repository of the Hub
            ("owner/name", also "owner/name@revision").
        revision: Branch, tag or commit of the repository; None for "main".
        cache_dir: None for the Hub's own.
        local_files_only: Fetch nothing.

    Raises:
        InputError: The name leads nowhere, or the repository is not there.
        MissingExtra: The repository is neither in the cache nor within reach.
        ArtifactError, ConfigError: See `medfinder.model.checkpoint.load_checkpoint`.
    """
    if str(name) == PACKAGED and not Path(name).is_dir():
        return load_checkpoint(packaged())
    place = find(str(name), revision=revision, cache_dir=cache_dir, offline=local_files_only)
    if place is None:
        raise InputError(
            f"{str(name)!r} is neither a folder nor a repository's id (owner/name) nor {PACKAGED!r}. "
            "Check the name."
        )
    return load_checkpoint(place.folder)


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a MedFinder checkpoint",
) -> str:
    """Upload a checkpoint as one commit; the repository is made where there is none.

    A checkpoint without ``README.md`` gets a model card. Sign in before: ``hf auth login``.

    Args:
        private: Of a repository that is made; None for the owner's default.
        revision: Branch; None for "main".

    Returns:
        The commit's address.

    Raises:
        ArtifactError: The folder is no whole checkpoint.
        InputError: The Hub refuses: the repository's name, the sign-in or its rights.
        MissingExtra: The Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from medfinder.model.card import model_card

    folder = Path(folder)
    checkpoint = read_checkpoint(folder)
    check_files(folder, checkpoint)
    held = [name for name in (CARD, TRAINING) if (folder / name).is_file()]
    operations = [
        CommitOperationAdd(name, folder / name) for name in (CONFIG, *checkpoint.files, *held)
    ]
    if CARD not in held:
        notes = json.loads((folder / TRAINING).read_bytes()) if TRAINING in held else None
        operations.append(CommitOperationAdd(CARD, model_card(checkpoint, notes).encode()))
    api = HfApi(endpoint=_endpoint(), library_name=LIBRARY)
    with _told(repo_id, revision or "main"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return str(done.commit_url)


def packaged() -> Path:
    """Return the folder of the checkpoint that comes with MedFinder.

    Raises:
        MissingExtra: This installation has none.
    """
    if not (FOLDER / CONFIG).is_file():
        raise MissingExtra(
            f"The checkpoint {PACKAGED!r} is not in this installation (model/checkpoints/small): "
            "install a release that has it, or give a checkpoint's folder or Hub id."
        )
    return FOLDER


def entry(name: str) -> EncoderEntry | None:
    """Return what a folder or a repository declares as an encoder; None where `name` is neither.

    Raises:
        MissingExtra: The packaged checkpoint is meant and not there, or a repository is neither in
            the cache nor within reach.
        InputError: There is no such repository.
        ArtifactError, ConfigError: See `medfinder.model.checkpoint.read_checkpoint`.
    """
    if name == PACKAGED and not Path(name).is_dir():
        packaged()
    place = find(name)
    if place is None:
        return None
    needs = _needs(place)
    declared = read_checkpoint(place.folder).info(place.where, needs)
    return EncoderEntry(declared, partial(load_encoder_from, place.folder, place.where, needs))


def register() -> None:
    """File the packaged checkpoint among the encoders, if it is there and whole."""
    needs = "pip install medfinder  # it comes with it"
    try:
        declared = read_checkpoint(FOLDER).info(needs=needs)
    except MedFinderError:  # said by `packaged` and `load_checkpoint` when it is asked for
        return
    encoders.register(PACKAGED)(
        EncoderEntry(declared, partial(load_encoder_from, FOLDER, "", needs))
    )


def find(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Place | None:
    """Return where the checkpoint called `name` lies, fetched if need be; None if it is no such name.

    A folder goes before a repository of the same name. See `from_pretrained` for the rest.
    """
    path = Path(name).expanduser()
    named = HUB_ID.fullmatch(name)
    if path.is_dir() or not named:
        is_path = path.is_dir() or "/" in name or name.startswith("~")
        return Place(path, os.path.abspath(path)) if is_path else None
    repo, wanted = named["repo"], revision or named["revision"] or "main"
    config = _fetch(repo, CONFIG, wanted, cache_dir, offline)
    folder, commit = config.parent, config.parent.name  # …/snapshots/COMMIT/config.json
    for file in _listed(config, repo):
        _fetch(repo, file, commit, cache_dir, offline)
    return Place(folder, f"{repo}@{commit}")


def _needs(place: Place) -> str:
    repo, _, commit = place.where.partition("@")
    if COMMIT.fullmatch(commit):
        return f"hf download {repo} --revision {commit}"
    return f"nothing: it lies in {place.where}"


def _listed(config: Path, repo: str) -> list[str]:
    """Return the names of the files that belong to a fetched ``config.json``.

    Raises:
        Mismatch: It is no checkpoint's, or names a file that could lie elsewhere.
    """
    try:
        files = list(json.loads(config.read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        raise Mismatch(
            f"The repository {repo} is no checkpoint of MedFinder: its {CONFIG} lists no files. "
            "Another library reads it."
        ) from None
    strange = [name for name in files if not FILE.fullmatch(str(name))]
    if strange:
        raise Mismatch(
            f"The {CONFIG} of {repo} names the file {strange[0]!r}, which is no plain name. Nothing "
            "of it was fetched."
        )
    return files


def _fetch(
    repo: str, file: str, revision: str, cache_dir: str | Path | None, offline: bool
) -> Path:
    from huggingface_hub import hf_hub_download

    with _told(repo, revision):
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                library_name=LIBRARY,
                endpoint=_endpoint(),
            )
        )


@contextlib.contextmanager
def _told(repo: str, revision: str) -> Iterator[None]:
    """Say what the Hub's errors mean for a repository."""
    from huggingface_hub import errors

    out_of_reach: type[Exception] = getattr(errors, "HTTPError", ConnectionError)
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise MissingExtra(
            f"hf download {repo}  # it is not in the Hub's cache, and the Hub cannot be reached"
        ) from None
    except errors.HFValidationError as error:
        raise InputError(f"{repo!r} is no repository's id: {error}") from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"The repository {repo!r} has no revision {revision!r}. Give a branch, tag or commit."
        ) from None
    except errors.GatedRepoError:
        raise InputError(
            f"The repository {repo!r} asks for an agreement. Agree on its page, sign in with 'hf "
            "auth login', and try again."
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"There is no folder {repo!r}, and no repository of that name on the Hub that you may "
            "read. Check the name; for a private one sign in: hf auth login"
        ) from None
    except errors.EntryNotFoundError:
        raise Mismatch(
            f"The repository {repo!r} is no checkpoint of MedFinder, or a part of one: a file is "
            "not there. Give another."
        ) from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        raise InputError(
            f"The Hub refuses {repo!r} with status {code}. "
            + (
                "Sign in with a token that may: hf auth login"
                if code in (401, 403)
                else "Try later."
            )
        ) from None
    except out_of_reach as error:
        raise MissingExtra(
            f"hf download {repo}  # the Hub cannot be reached ({type(error).__name__})"
        ) from None


def _endpoint() -> str | None:
    """Return the Hub's address where another is set, also after its library was imported."""
    return os.environ.get("HF_ENDPOINT") or None


register()
