"""What LanceDB says when its files fail it, in our words: nothing else of it shows in a message."""

import contextlib
from collections.abc import Iterator

from medfinder.errors import ArtifactError, MedFinderError
from medfinder.place import FolderPlace, Place, cause

_DISK_FULL = (
    "no space left",
    "disk quota",
    "file too large",
    "os error 28",
    "os error 122",
    "os error 27)",
)
_READ_ONLY = ("permission denied", "read-only file system", "os error 13", "os error 30")
_STORE = (
    "generic s3",
    "error performing",
    "error sending request",
    "nosuchbucket",
    "failed to connect",
    "retryerror",
)
_DAMAGED = (
    "lanceerror(io)",
    "lanceerror(arrow)",
    "lanceerror(internal)",
    "invalid range",
    "metadata range",
    "corrupt",
    "decode",
    "panic",
    "not found",
    "no such file",
    "magic",
    "external error",
    "encountered",
)


def is_panic(error: BaseException) -> bool:
    """Whether the engine gave up in the middle, which Python sees as no ordinary exception."""
    return type(error).__name__ == "PanicException"


def is_fault(error: BaseException) -> bool:
    """Whether the engine failed on its files, and not on what it was asked."""
    text = str(error).lower()
    words = (*_DISK_FULL, *_READ_ONLY, *_STORE, *_DAMAGED)
    return is_panic(error) or any(word in text for word in words)


def fault(error: BaseException, place: Place) -> ArtifactError:
    """Return what the engine's failure means for whoever runs a command."""
    text = str(error).lower()
    name = repr(str(place))
    if any(word in text for word in _DISK_FULL):
        return ArtifactError(
            f"The disk that holds the index {name} is full. Nothing that was there is lost: make "
            "room, and run the same command again; it goes on."
        )
    if any(word in text for word in _READ_ONLY) and isinstance(place, FolderPlace):
        return ArtifactError(
            f"The index {name} cannot be written: its folder is read-only for this user. Give this "
            "user the right to write, or index into another folder."
        )
    if not isinstance(place, FolderPlace):
        return ArtifactError(f"The index {name} could not be read or written: {cause(error)}")
    return ArtifactError(
        f"A file of the index {name} is damaged or missing. Run 'medfinder index {place} --check' "
        "to see which, and with --repair to mend it."
    )


@contextlib.contextmanager
def told(place: Place) -> Iterator[None]:
    """Raise what the engine says of its files as an ArtifactError; let all else through."""
    try:
        yield
    except MedFinderError:
        raise
    except Exception as error:
        if isinstance(error, (RuntimeError, OSError, ValueError)) and is_fault(error):
            raise fault(error, place) from None
        raise
    except BaseException as error:
        if is_panic(error):
            raise fault(error, place) from None
        raise
