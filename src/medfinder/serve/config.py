"""Bounds and settings of the service."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeConfig:
    """Bounds of the service.

    Attributes:
        max_upload_bytes: Of an uploaded file.
        max_expanded_bytes: Of what an uploaded archive becomes.
        max_body_bytes: Of any other request.
        max_uploads: Uploads in work at once; one more is asked to come back.
        pixels_bytes: Memory for volumes that are being looked at (int16).
        pngs_bytes: Memory for finished slices.
        host_names: Names under which the service is reached, besides those of this machine.
        stop_s: Seconds that requests in work are given once the service is told to stop.
    """

    max_upload_bytes: int = 2 * 2**30
    max_expanded_bytes: int = 4 * 2**30
    max_body_bytes: int = 256 * 2**10
    max_uploads: int = 4
    pixels_bytes: int = 2**30
    pngs_bytes: int = 64 * 2**20
    host_names: tuple[str, ...] = ()
    stop_s: int = 10
