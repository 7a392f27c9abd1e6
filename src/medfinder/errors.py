"""Every exception MedFinder raises, and nothing else.

::

    MedFinderError
    ├── InputError      what the user gave cannot be used
    │   ├── UnreadableVolume   a file or series cannot be decoded into a CT volume
    │   ├── GeometryError      the voxels are there, but not where a CT's voxels can be
    │   ├── EmptyReport        a report has no text to work with
    │   ├── UnknownName        a name is in no registry, vocabulary or index
    │   └── ConfigError        a setting is unknown, misspelt or out of range
    ├── ArtifactError   a stage's folder cannot be used
    │   ├── Incomplete         the stage that writes it has not finished
    │   └── Mismatch           it was made by another model, schema or configuration
    ├── MissingExtra    an optional package is absent; the text is the pip command
    └── ServiceError    a MedFinder service refused, was busy, or could not be reached

Message grammar: *what is wrong — where — expected, got — what to do.*
No message holds a patient's identity, a path the user did not type, or report text.
"""


class MedFinderError(Exception):
    """Any error that a user can act on; the command line prints it and exits with 2.

    Attributes:
        hint: What to do, where a service answered; "" otherwise.
        request_id: By which the service's log knows the request; "" otherwise.
    """

    hint: str = ""
    request_id: str = ""


class InputError(MedFinderError):
    """What the user gave cannot be used.

    Attributes:
        rule: Short machine-readable reason, such as ``"too-few-slices"``; it becomes
            the ``rule`` of a rejection in bulk work.
    """

    rule: str = "input"

    def __init__(self, message: str, *, rule: str | None = None) -> None:
        super().__init__(message)
        if rule is not None:
            self.rule = rule


class UnreadableVolume(InputError):
    """A file or series cannot be decoded into a CT volume."""

    rule = "unreadable"


class GeometryError(InputError):
    """The voxels are there, but not where a CT's voxels can be."""

    rule = "geometry"


class EmptyReport(InputError):
    """A report has no text to work with."""

    rule = "empty-report"


class UnknownName(InputError):
    """A name is in no registry, vocabulary or index."""

    rule = "unknown-name"


class ConfigError(InputError):
    """A setting is unknown, misspelt or out of range."""

    rule = "config"


class ArtifactError(MedFinderError):
    """A stage's folder cannot be used."""


class Incomplete(ArtifactError):
    """The stage that writes this folder has not finished."""


class Mismatch(ArtifactError):
    """The folder was made by another model, schema or configuration."""


class MissingExtra(MedFinderError):
    """An optional package is absent; the text says which pip command brings it."""


class ServiceError(MedFinderError):
    """A MedFinder service refused, was busy, or could not be reached.

    Attributes:
        status: HTTP status of the answer; None without one.
        kind: The service's word for what is wrong, such as ``"NotSignedIn"``.
    """

    def __init__(self, message: str, *, status: int | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
