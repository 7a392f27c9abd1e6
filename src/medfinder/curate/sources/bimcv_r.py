"""BIMCV-R as it is published: one table, and volumes in ten shards ``CT1`` ... ``CT10``.

A row gives a volume its Spanish report, a machine's English and labels; several volumes of one
``ReportID`` are series of one study. A row and a volume belong together by the file's name: a path
in the table is compared, and never opened.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from medfinder.curate.sources.bimcv import IDS_DISAGREE
from medfinder.curate.sources.listing import NOT_LISTED, Listing, formula_doubts, refused, stem
from medfinder.curate.sources.mids import TABLE, Name
from medfinder.curate.sources.source import Facts, TableRow
from medfinder.curate.tables import Row, RowReader, parse_list
from medfinder.errors import InputError
from medfinder.records import Rejection, Split
from medfinder.volume.read import VolumeRef, find_volumes

_SHARD = re.compile(r"(?:^|[/\\])CT[_-]?(\d{1,2})(?=[/\\])", re.IGNORECASE)
_PEEK = 100  # rows looked at for a shard, before an hour is spent on a split that is not there


class BimcvRSource:
    """The published BIMCV-R.

    Args:
        table: ``BIMCV-R.csv``, ``BIMCV_meta.csv``, ``curated_ct_report_path_En.csv`` or one with
            their columns, of any format that `RowReader` reads.
        volumes: Folder with the shards; None to curate the table alone.
        every_volume: Make each volume a study (``ReportID_run``) instead of choosing one series a
            study: what the published numbers count.
        split: ``"published"`` takes the authors' split by shard: 1-7 train, 8 val, 9-10 test;
            ``"own"`` leaves it to be made.

    Raises:
        InputError: No such table or folder, columns missing, or no shard to split by.
    """

    name = "bimcv-r"

    def __init__(
        self,
        table: Path,
        volumes: Path | None = None,
        *,
        every_volume: bool = False,
        split: Literal["published", "own"] = "own",
    ) -> None:
        if volumes is not None and not volumes.is_dir():
            raise InputError(f"There is no folder at {str(volumes)!r}. Check the path.")
        needs = ["report_id|path", "patient_id|path", "text|translation"]
        self._table = RowReader(table, TABLE, needs)
        self._volumes = volumes
        self._every_volume = every_volume
        self._published = split == "published"
        self._listing = Listing()
        if self._published and not self._has_shards():
            raise InputError(
                "The published split goes by shard, and neither the table's paths nor the volumes' "
                "folders name one: expected CT1 to CT10. Use --split own.",
                rule="no-shards",
            )

    def _has_shards(self) -> bool:
        paths = [row.cells["path"] for row in islice(self._table, _PEEK)]
        if self._volumes is not None:
            folders = (self._volumes, *self._volumes.glob("*"), *self._volumes.glob("*/CT*"))
            paths += [f"{folder.name}/" for folder in folders]
        return any(map(_shard, paths))

    def items(self) -> Iterator[VolumeRef | TableRow | Rejection]:
        """Read the table; its rows are the studies, or wait for the volumes, which come next."""
        self._listing = Listing()
        for row in self._table:
            name = _row_name(row)
            ids = (row.cells["patient_id"], row.cells["report_id"])
            rejection = refused(row, ids=ids, paths=(row.cells["path"],)) or _nameless(row, name)
            key = stem(row.cells["path"]) or f"{name.patient}_{name.session}"
            rejection = rejection or self._listing.add(
                row, key, group=name.session, label=name.session, keep=self._volumes is not None
            )
            if rejection:
                yield rejection
            elif self._volumes is None:
                yield TableRow(
                    f"row {row.number}: {name.session}",
                    self._facts(name, row.cells, formula_doubts(row.formulas), row.cells["path"]),
                )
        if self._volumes is not None:
            yield from self._found(self._volumes)

    def _found(self, volumes: Path) -> Iterator[VolumeRef | Rejection]:
        for item in find_volumes(volumes):
            if isinstance(item, Rejection):
                yield item
                continue
            name = Name.parse(item.item)
            self._listing.mark(stem(item.item))
            self._listing.mark(f"{name.patient}_{name.session}")
            # A file of a plainer name is the table's word against nobody's.
            yield (name.refusal(item.item) if name.session else None) or item

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the table says of one volume."""
        name = Name.parse(ref.item)
        row = self._listing.claim(stem(ref.item))
        row = row or self._listing.claim(f"{name.patient}_{name.session}", group=name.session)
        # The folder of the volumes may itself be a shard.
        place = f"{self._volumes.name if self._volumes else ''}/{ref.item}"
        if row is None:
            return self._facts(name, {}, (NOT_LISTED,), place, fallback=stem(ref.item))
        patient, session = row.cells["patient_id"], row.cells["report_id"]
        disagree = (name.patient and patient not in ("", name.patient)) or (
            name.session and session not in ("", name.session)
        )
        doubts = (*row.doubts, IDS_DISAGREE) if disagree else row.doubts
        mine = Name(patient or name.patient, session or name.session, name.run, name.body_part)
        return self._facts(mine, row.cells, doubts, place, row.cells["path"], stem(ref.item))

    def _facts(
        self,
        name: Name,
        cells: Mapping[str, str],
        doubts: tuple[tuple[str, str], ...],
        *places: str,
        fallback: str = "",
    ) -> Facts:
        text, translation = cells.get("text", ""), cells.get("translation", "")
        study = name.session
        if self._every_volume and name.run:
            study = f"{name.session}_{name.run}"
        shard = next(filter(None, map(_shard, places)), None) if self._published else None
        return Facts(
            fallback_id=fallback or study,
            study_id=study or None,
            patient_id=name.patient or None,
            # A table without the originals: its English is all there is.
            text=text or translation,
            language="es" if text else "en" if translation else None,
            translation=translation if text else "",
            labels=parse_list(cells.get("labels", "")) if self._table.has("labels") else None,
            body_part=name.body_part or None,
            split=_split(shard),
            doubts=doubts,
        )

    def leftovers(self) -> Iterator[Rejection]:
        """Yield a rejection for every row whose volume did not come."""
        if self._volumes is None:
            return
        for item, _ in self._listing.unclaimed():
            yield Rejection(
                item,
                "volume-missing",
                "The table lists this volume, but no file of its name is in the folder.",
            )


def _row_name(row: Row) -> Name:
    """Return whose row it is; the path's name fills in what has no column of its own."""
    name = Name.parse(row.cells["path"])
    return Name(
        row.cells["patient_id"] or name.patient,
        row.cells["report_id"] or name.session,
        name.run,
        name.body_part,
        name.modality,
    )


def _nameless(row: Row, name: Name) -> Rejection | None:
    if name.session and name.patient:
        return None
    return Rejection(
        f"row {row.number}",
        "no-id",
        "The row names no study or no patient: expected PatientID and ReportID. Fill them in.",
    )


def _shard(place: str) -> int | None:
    found = _SHARD.search(place)
    return int(found[1]) if found and 1 <= int(found[1]) <= 10 else None


def _split(shard: int | None) -> Split | None:
    if shard is None:
        return None
    return "train" if shard <= 7 else "val" if shard == 8 else "test"
