"""Do two copies of one CT find each other? DICOM → NIfTI and NIfTI → DICOM, among real CTs.

The NIfTI copies of ``../shared/data`` were resampled to 2 mm, so this asks whether an encoder sees
the same body through another spacing. Both galleries are curated, indexed and searched as a user
would. Run: ``python benchmarks/copies.py [--encoder astra]``
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.curate.curate import curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.model.encoder import load_encoder
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.volume.read import read_volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PAIRS = {
    "cip_ct64": "cip_ct64",
    "lung_dx_a0002": "lung_dx_a0002",
    "ricord_001012_jpeg_lossless": "midrc_ricord1a_001012",
}


class Remembering:
    """An encoder that encodes the same input once: the two galleries share most of their CTs."""

    def __init__(self, encoder: Any) -> None:
        self.info, self._encoder, self._known = encoder.info, encoder, {}

    def encode_volumes(self, batch: np.ndarray) -> np.ndarray:
        """Encode a batch, or return what the same batch gave before."""
        key = hashlib.sha256(np.ascontiguousarray(batch)).digest()
        if key not in self._known:
            self._known[key] = self._encoder.encode_volumes(batch)
        return self._known[key]


def gallery(folder: Path, items: dict[str, Path], embedder: Embedder) -> Finder:
    """Curate and index the items, name → file or folder, as links in one folder."""
    (folder / "raw").mkdir(parents=True)
    for name, path in items.items():
        # A DICOM folder is copied by links of its files: a linked folder is not walked.
        if path.is_dir():
            (folder / "raw" / name).mkdir()
            for file in path.iterdir():
                (folder / "raw" / name / file.name).symlink_to(file)
        else:
            (folder / "raw" / f"{name}.nii.gz").symlink_to(path)
    curate(FolderSource(folder / "raw"), folder / "studies")
    build_index(folder / "studies", folder / "idx", embedder, None)
    return Finder(open_index(folder / "idx").index, {"volume": embedder})


def ask(finder: Finder, query: Path, wanted: str) -> dict[str, Any]:
    """Return the rank of the wanted copy, its score, and the score of the next other study."""
    volume = read_volume(query)
    hits = finder.search(volume=volume, k=min(100, finder.index.count()))
    names = [Path(hit.study.volume_path).name.removesuffix(".nii.gz") for hit in hits]
    rank = names.index(wanted) + 1
    others = [hit.score for hit, name in zip(hits, names, strict=True) if name != wanted]
    return {"rank": rank, "score": hits[rank - 1].score, "next": others[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="astra")
    options = parser.parse_args()
    if not DATA.is_dir():
        print("No ../shared/data beside the checkout: there are no copies to look for.")
        return
    embedder = Embedder(Remembering(load_encoder(options.encoder)))  # type: ignore[arg-type]
    niftis = {p.name.removesuffix(".nii.gz"): p for p in DATA.glob("ct_nifti*/*.nii.gz")}
    dicoms = {name: DATA / "dicom" / name for name in PAIRS}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        finder = gallery(Path(folder) / "nifti", niftis, embedder)
        n = finder.index.count()
        for dicom, nifti in PAIRS.items():
            found = ask(finder, dicoms[dicom], nifti)
            rows.append({"query": f"DICOM {dicom}", "gallery": n, **found})
        rest = {name: path for name, path in niftis.items() if name not in PAIRS.values()}
        finder = gallery(Path(folder) / "dicom", {**rest, **dicoms}, embedder)
        n = finder.index.count()
        for dicom, nifti in PAIRS.items():
            found = ask(finder, niftis[nifti], dicom)
            rows.append({"query": f"NIfTI {nifti}", "gallery": n, **found})
    print(table(rows))
    write_result("copies", {"encoder": options.encoder, "rows": rows})


if __name__ == "__main__":
    main()
