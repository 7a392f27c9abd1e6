"""An uploaded CT, held for a while, so that it can be looked at beside what it found.

It lies in a folder that only this user can read, shared by all processes of the service, and goes
with the service, with age, or when newer ones need its room. Its id is random: who does not know
it cannot find it.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.records import Study
from medfinder.serve.slices import Pixels, find_landmarks
from medfinder.serve.uploads import PREFIX
from medfinder.studies import from_row, to_row

ID_PREFIX = "query-"
_ID = re.compile(rf"{ID_PREFIX}[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True, eq=False)
class HeldQuery:
    """An uploaded CT.

    Attributes:
        study: What is known of it: its geometry, no report, no patient.
        place: (dim,) its vector.
        encoder: `EncoderInfo.model_id` of what made the vector.
        owner: Whose it is; "" where nobody signs in.
    """

    study: Study
    place: npt.NDArray[np.float32]
    encoder: str
    owner: str


class Held:
    """Uploaded CTs on disk; safe to use from many threads and processes.

    Args:
        folder: Where they lie; None for a folder of its own, removed by `close`.
        max_bytes: The oldest go when there are more.
        seconds: How long each is held.
    """

    def __init__(self, folder: Path | None, max_bytes: int, seconds: float) -> None:
        self._is_own = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._lock = threading.Lock()

    def keep(
        self, pixels: Pixels, place: npt.NDArray[np.float32], encoder: str, owner: str = ""
    ) -> HeldQuery:
        """Hold an uploaded CT."""
        study_id = f"{ID_PREFIX}{secrets.token_hex(16)}"
        d, h, w = pixels.hu.shape
        study = Study(
            study_id=study_id,
            patient_id=study_id,
            series_id="",
            volume_path="",
            volume_hash=study_id,
            shape=(d, h, w),
            spacing_mm=pixels.spacing_mm,
            source="upload",
        )
        query = HeldQuery(study, place, encoder, owner)
        told = {
            "study": to_row(study),
            "place": place.tolist(),
            "encoder": encoder,
            "owner": owner,
            "affine": pixels.affine.tolist(),
        }
        with self._lock:
            self._make_room(pixels.hu.nbytes)
            np.save(self._folder / f"{study_id}.npy", pixels.hu)
            part = self._folder / f"{study_id}.part"
            part.write_text(json.dumps(told))
            part.replace(self._folder / f"{study_id}.json")  # from now on it can be found
        return query

    def get(self, study_id: str, owner: str | None = None) -> HeldQuery | None:
        """Return an uploaded CT's facts; None when it is not, or no longer, held.

        Args:
            owner: Only if it is theirs; None for whoever asks.
        """
        told = self._told(study_id)
        if told is None or (owner is not None and told["owner"] != owner):
            return None
        place = np.array(told["place"], np.float32)
        return HeldQuery(from_row(told["study"]), place, told["encoder"], told["owner"])

    def pixels(self, study_id: str) -> Pixels | None:
        """Return an uploaded CT's voxels; None when it is no longer held."""
        told = self._told(study_id)
        if told is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            hu = np.load(self._folder / f"{study_id}.npy")
            hu.setflags(write=False)
            return Pixels(hu, np.array(told["affine"]), find_landmarks(hu))
        return None

    def close(self) -> None:
        """Forget all of them, where the folder is this object's own."""
        if self._is_own:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _told(self, study_id: str) -> dict[str, Any] | None:
        if not _ID.fullmatch(study_id):
            return None
        path = self._folder / f"{study_id}.json"
        try:
            if time.time() - path.stat().st_mtime > self._seconds:
                self._drop(path)
                return None
            told: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return told

    def _make_room(self, n_bytes: int) -> None:
        kept = []
        for path in self._folder.glob(f"{ID_PREFIX}*.json"):
            with contextlib.suppress(FileNotFoundError):
                kept.append((path.stat().st_mtime, _size(path.with_suffix(".npy")), path))
        total = n_bytes + sum(size for _, size, _ in kept)
        for made, size, path in sorted(kept):
            if total > self._max_bytes or time.time() - made > self._seconds:
                self._drop(path)
                total -= size

    def _drop(self, path: Path) -> None:
        for one in (path, path.with_suffix(".npy")):
            one.unlink(missing_ok=True)


def is_held(study_id: str) -> bool:
    """Tell whether an id is one of an uploaded CT."""
    return _ID.fullmatch(study_id) is not None


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
