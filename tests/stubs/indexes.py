"""What two indexes share that are equal: vectors bit for bit, region files, rejections, content."""

from pathlib import Path
from typing import NamedTuple

from medfinder.artifact import manifest_hash, read_manifest
from medfinder.search.finder import open_index
from medfinder.studies import read_rejections


class Contents(NamedTuple):
    """All of an index that is compared."""

    vectors: dict[tuple[str, str], bytes | None]
    regions: dict[str, bytes]
    rejections: list[tuple[str, str]]
    hash: str


def contents(out: Path) -> Contents:
    """Return all that two equal indexes share."""
    index = open_index(out).index
    ids = sorted(index.ids())
    return Contents(
        {
            (study_id, stream): None if vector is None else vector.tobytes()
            for stream in ("volume", "report")
            for study_id, vector in zip(ids, index.vectors(stream, ids), strict=True)
        },
        {path.name: path.read_bytes() for path in sorted((out / "regions").glob("*.npy"))},
        [(r.item, r.rule) for r in read_rejections(out / "rejections.parquet")],
        manifest_hash(read_manifest(out, "index")),
    )
