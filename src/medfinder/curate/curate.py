"""Raw CTs and reports → a dataset that a number can be trusted on: never a crash, never silence.

The steps, in the order of `curate`: find every item, inspect its volume, pair it with its facts,
choose one volume a study, read the words, translate them, compare the texts, deal out the splits,
write. What the steps hand on lies in a `Ledger`, so a run that is killed goes on where it stopped, a
second run over a grown archive reads only what is new, and memory does not grow with the archive.
Does not know where items come from (`sources`) nor what a sound volume is (`volume.checks`).
"""

import base64
import dataclasses
import functools
import glob
import hashlib
import itertools
import json
import os
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import medfinder
from medfinder.artifact import MANIFEST, Manifest, atomic_write, refuse_copy, write_manifest
from medfinder.config import config_hash, to_dict
from medfinder.curate import rules
from medfinder.curate.copies import CopyFormat, CopyJob, Refused, copy_volumes
from medfinder.curate.deidentify import cap_age, shift_date, shift_days
from medfinder.curate.deidentify_dicom import clean_descriptor, clean_device
from medfinder.curate.inspect import PASSING, fingerprint, inspect_all
from medfinder.curate.ledger import PRIVATE, Ledger, storable
from medfinder.curate.pseudonym import pseudonym, safe_id, short_hash
from medfinder.curate.similar import (
    MIN_JACCARD,
    THUMBNAIL,
    Groups,
    Rarity,
    is_same_scan,
    jaccard,
    near_copies,
    triples,
)
from medfinder.curate.sources.source import Facts, Source, TableRow
from medfinder.curate.split import SPLITS, Group, SplitConfig, deal, leakage
from medfinder.curate.texts import ReadText, TextConfig, Words, read_texts
from medfinder.errors import ConfigError, InputError, MedFinderError
from medfinder.records import Doubt, Rejection, Study
from medfinder.report.translate import TranslateConfig, Translator, translate_all
from medfinder.scale.engine import Engine
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes
from medfinder.studies import (
    stream_doubts,
    stream_refused,
    stream_rejections,
    stream_studies,
)
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import VolumeRef, read_ref

COPIES = "volumes"
"""Folder of a dataset that holds de-identified copies, where they were asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class CurateConfig:
    """Settings of ``medfinder curate``.

    Attributes:
        check: What a sound volume is.
        text: How reports are read.
        split: How studies are dealt out.
        translate: How reports are translated, where a translator is given.
        workers: Processes that read volumes and reports; 0 for one a core.
        pseudonym_key: Site secret for `pseudonym`; not written to the manifest.
        rename: Whether ids that a table or file name gives are made pseudonyms too.
        shift_dates: Whether each patient's dates are shifted by a constant number of days.
        copy: ``"nifti"`` or ``"dicom"`` writes de-identified copies of the volumes kept, so that
            the dataset names no path of the archive; ``"none"`` leaves them where they are.
        hide_names: Whether ``rejections.parquet`` names items by pseudonyms, whose key is in
            ``private``.
        body_parts: Words of which a scan's body part has to hold one; none for any.
        near_duplicates: Whether scans that differ by noise or an offset only are kept once.
    """

    check: CheckConfig = dataclasses.field(default_factory=CheckConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    translate: TranslateConfig = dataclasses.field(default_factory=TranslateConfig)
    workers: int = 0
    pseudonym_key: str = ""
    rename: bool = False
    shift_dates: bool = True
    copy: CopyFormat = "none"
    hide_names: bool = False
    body_parts: tuple[str, ...] = ()
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        if self.copy not in ("none", "nifti", "dicom"):
            raise ConfigError(f"copy is {self.copy!r}; expected 'none', 'nifti' or 'dicom'.")


@dataclasses.dataclass(frozen=True, slots=True)
class Curated:
    """What a run of `curate` made.

    Attributes:
        folder: The artifact.
        n_studies: Rows of ``studies.parquet``.
        n_rejections: Rows of ``rejections.parquet``.
        by_rule: Rejections a rule.
        doubts_by_rule: Doubts a rule, of studies that were kept.
        splits: Studies a split; ``""`` counts those without one.
        n_reports: Studies that have a report.
    """

    folder: Path
    n_studies: int
    n_rejections: int
    by_rule: Mapping[str, int]
    doubts_by_rule: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    n_reports: int = 0


def curate(
    source: Source,
    out: Path,
    config: CurateConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    translator: Translator | None = None,
    engine: Engine | None = None,
) -> Curated:
    """Read, check and pair everything `source` holds, and write the dataset to `out`.

    Writes ``studies.parquet``, ``rejections.parquet``, ``doubts.parquet``,
    ``translations.parquet`` (English that did not pass its checks) and, last, the manifest.

    Args:
        progress: Called with (done, total) after each volume.
        translator: Makes English of reports that have none, or none that passes its checks.
        engine: Who reads volumes and reports and writes copies; None for processes of this machine,
            as many as `config` says. Nothing else depends on it.

    Raises:
        InputError: Nothing usable was found; ``rejections.parquet`` is written all the same.
    """
    config = config or CurateConfig()
    start = time.monotonic()
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; studies need a folder. Give another path.")
    refuse_copy(out)
    out.mkdir(parents=True, exist_ok=True)
    key = config_hash(config.check) + medfinder.__version__
    with Ledger(out, key) as ledger:
        run = _Run(source, out, config, ledger, engine)
        run.find()
        run.inspect(progress)
        run.pair()
        run.tell_patients_apart()
        run.choose()
        run.name()
        run.read_words()
        if translator is not None:
            run.translate(translator)
        run.compare_texts()
        run.deal_out()
        made, manifest = run.write()
        write_manifest(
            out, dataclasses.replace(manifest, duration_s=round(time.monotonic() - start, 3))
        )
        return made


class _Run:
    """One run: each method is one step, and reads and writes the ledger."""

    def __init__(
        self,
        source: Source,
        out: Path,
        config: CurateConfig,
        ledger: Ledger,
        engine: Engine | None = None,
    ) -> None:
        self.source = source
        self.out = out
        self.config = config
        self.ledger = ledger
        self.engine = engine
        self.workers = config.workers or os.cpu_count() or 1
        here = Here() if self.workers == 1 else Processes(self.workers)
        self.own_engine: Engine = engine or here  # of what no damaged file brings down
        for name in ("*.parquet", MANIFEST):  # what a killed run left
            for unfinished in out.glob(f".{name}.*.tmp"):
                unfinished.unlink(missing_ok=True)

    # --- items -------------------------------------------------------------------------------

    def find(self) -> None:
        """List the source's items; rows without a volume are candidates at once.

        What earlier runs wrote is no part of the archive, should their folder lie in it.
        """
        folder = self.out.resolve()
        copies = {name for (name,) in self.ledger.rows("SELECT file FROM copy")}
        roots = [f"{folder.relative_to(above).as_posix()}/" for above in folder.parents]

        def is_own(*parts: str) -> bool:
            """Tell whether a path from the folder is of a file that curation or review wrote."""
            first, *rest = parts
            own = first == PRIVATE or first.startswith("review.db")
            return own or (first == COPIES and bool(rest) and rest[0] in copies)

        def is_own_item(item: str) -> bool:
            # A source names items from its root, which may be any folder above, or this one.
            rests = (item[len(root) :] for root in ("", *roots) if item.startswith(root))
            return any(
                rest and is_own(*rest.split("/")) and (folder / rest).exists() for rest in rests
            )

        def found() -> Iterator[tuple[Any, ...]]:
            for n, item in enumerate(self.source.items()):
                if isinstance(item, Rejection):
                    if not is_own_item(item.item):
                        rejected.append(item)
                elif isinstance(item, TableRow):
                    yield n, storable(item.item), None, json.dumps(dataclasses.asdict(item.facts))
                elif not _is_utf8(item.path):
                    reason = "The name, or a folder's above it, is not UTF-8 and cannot be stored. Rename it."
                    rejected.append(Rejection(item.item, "bad-name", reason))
                elif folder not in (path := item.path.resolve()).parents or not is_own(
                    *path.relative_to(folder).parts
                ):
                    yield n, storable(item.item), _ref_to_json(item), None

        rejected: list[Rejection] = []
        for rows in _batches(found()):
            self.ledger.many("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?)", rows)
            new = {n for (n,) in self.ledger.rows("SELECT n FROM found WHERE n >= ?", rows[0][:1])}
            reason = "Another item has this very name and came first. Give each a name of its own."
            rejected += [
                Rejection(row[1], "duplicate-row", reason) for row in rows if row[0] not in new
            ]
            self.ledger.reject(rejected)
            rejected.clear()
        self.ledger.reject(rejected)

    def inspect(self, progress: Callable[[int, int], None] | None) -> None:
        """Read every volume that has not been read, or has changed since."""
        # The settings are part of a mark: what another run found under other limits is not taken.
        settings = config_hash(self.config.check)
        marks: dict[str, str] = {}
        total = self.ledger.count("SELECT count(*) FROM found WHERE ref IS NOT NULL")
        n_done = 0

        def todo() -> Iterator[VolumeRef]:
            nonlocal n_done
            for (ref,) in self.ledger.rows(
                "SELECT ref FROM found WHERE ref IS NOT NULL ORDER BY n"
            ):
                volume = _ref_from_json(ref)
                mark = f"{settings}-{fingerprint(volume)}"
                seen = self.ledger.inspected(volume.item, mark)
                if seen is None or seen.get("rule") in PASSING:
                    marks[volume.item] = mark
                    yield volume
                else:
                    n_done += 1

        waiting = todo()
        first = next(waiting, None)
        if first is None:
            return
        # A decoder may take its process down, so that even one worker is another process.
        engine = self.engine or Processes(self.workers)
        for volume, seen in inspect_all(
            itertools.chain([first], waiting), self.config.check, engine
        ):
            self.ledger.keep_inspected(volume.item, marks.pop(volume.item), seen)
            n_done += 1
            if progress:
                progress(n_done, total)

    def pair(self) -> None:
        """Give each sound volume what the source knows of it."""
        rejected: list[Rejection] = []

        def candidates() -> Iterator[tuple[Any, ...]]:
            query = (
                "SELECT n, found.item, ref, facts, seen FROM found "
                "LEFT JOIN inspected ON inspected.item = found.item ORDER BY n"
            )
            for n, item, ref, facts_json, seen_json in self.ledger.rows(query):
                seen = json.loads(seen_json) if ref and seen_json else {}
                try:
                    facts = (
                        self.source.facts(_ref_from_json(ref), seen.get("tags", {}))
                        if ref
                        else facts_from_json(facts_json)
                    )
                except InputError as error:
                    rejected.append(Rejection(item, error.rule, str(error)))
                    continue
                facts = _storable(facts)
                if "rule" in seen:
                    rejected.append(Rejection(item, seen["rule"], seen["reason"]))
                    continue
                reason = rules.other_body_part(facts.body_part, self.config.body_parts)
                if reason:
                    rejected.append(Rejection(item, "other-body-part", reason))
                    continue
                yield self._candidate(n, item, ref, facts, seen)

        for rows in _batches(candidates()):
            self.ledger.many(
                "INSERT INTO candidate VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1)", rows
            )
            self.ledger.reject(rejected)
            rejected.clear()
        self.ledger.reject(rejected)
        self.ledger.reject(self.source.leftovers())

    def _candidate(
        self, n: int, item: str, ref: str | None, facts: Facts, seen: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        study = self._study_name(facts)
        patient = self._patient_name(facts)
        shape = "x".join(map(str, seen.get("shape", ())))
        plain = json.dumps(dataclasses.asdict(facts))
        has_text = int(bool(facts.text.strip()))
        digest = seen.get("hash", "")
        return n, item, study, patient, digest, shape, has_text, plain, json.dumps(seen), ref

    def _study_name(self, facts: Facts) -> str:
        key = self.config.pseudonym_key
        if not facts.study_id and facts.raw_study_id:
            return pseudonym("S", facts.raw_study_id, key)
        name = facts.study_id or facts.fallback_id
        return pseudonym("S", name, key) if self.config.rename else name

    def _patient_name(self, facts: Facts) -> str:
        key = self.config.pseudonym_key
        if not facts.patient_id and facts.raw_patient_id:
            return pseudonym("P", facts.raw_patient_id, key)
        if not facts.patient_id:
            return self._study_name(facts)
        return pseudonym("P", facts.patient_id, key) if self.config.rename else facts.patient_id

    def tell_patients_apart(self) -> None:
        """Make studies of several patients with one number studies of their own, and doubt them.

        A volume of the study that names no patient is of the only one that the others name.
        """
        # Whoever has no number of a patient bears that of the study.
        named = "SELECT study, count(DISTINCT patient) AS k, min(patient) AS one FROM candidate "
        self.ledger.run(f"CREATE TEMP TABLE named AS {named} WHERE patient != study GROUP BY study")
        self.ledger.run("CREATE INDEX named_study ON named (study)")
        self.ledger.run(
            "UPDATE candidate SET patient = (SELECT one FROM named n WHERE n.study = candidate.study) "
            "WHERE patient = study AND study IN (SELECT study FROM named WHERE k = 1)"
        )
        self.ledger.run(
            "UPDATE candidate SET n_patients = (SELECT k FROM named n WHERE n.study = candidate.study), "
            "study = study || '/' || patient WHERE study IN (SELECT study FROM named WHERE k > 1)"
        )

    # --- one volume a study ------------------------------------------------------------------

    def choose(self) -> None:
        """Keep, of equal volumes one, of a study's series one, of near copies one."""
        self._leave_out("duplicate-volume", self._equal_volumes())
        self._leave_out("other-series", self._other_series())
        if self.config.near_duplicates:
            self._leave_out("near-duplicate-volume", self._near_copies())

    def _leave_out(self, rule: str, reasons: Iterator[tuple[int, str, str]]) -> None:
        left = [(n, Rejection(item, rule, reason)) for n, item, reason in reasons]
        self.ledger.many("UPDATE candidate SET gone = 1 WHERE n = ?", ((n,) for n, _ in left))
        self.ledger.reject(rejection for _, rejection in left)

    def _equal_volumes(self) -> Iterator[tuple[int, str, str]]:
        query = (
            "SELECT n, item, hash FROM candidate WHERE hash IN (SELECT hash FROM candidate "
            "WHERE hash != '' GROUP BY hash HAVING count(*) > 1) ORDER BY hash, has_text DESC, n"
        )
        for _, group in itertools.groupby(self.ledger.rows(query), key=lambda row: row[2]):
            (_, first, _), *others = group
            for n, item, _ in others:
                yield n, item, rules.duplicate_volume(first)

    def _other_series(self) -> Iterator[tuple[int, str, str]]:
        query = (
            "SELECT n, item, study, seen, json_extract(facts, '$.kernel') FROM candidate "
            "WHERE NOT gone AND study IN (SELECT study "
            "FROM candidate WHERE NOT gone GROUP BY study HAVING count(*) > 1) ORDER BY study, n"
        )
        for _, group in itertools.groupby(self.ledger.rows(query), key=lambda row: row[2]):
            numbers, series = {}, []
            for n, item, _, seen, kernel in group:
                numbers[item] = n
                series.append(_choice(item, json.loads(seen), kernel or ""))
            _, reasons = rules.choose_series(series)
            for item, reason in reasons.items():
                yield numbers[item], item, reason

    def _near_copies(self) -> Iterator[tuple[int, str, str]]:
        shapes = self.ledger.rows(
            "SELECT shape FROM candidate WHERE NOT gone AND shape != '' GROUP BY shape "
            "HAVING count(*) > 1 ORDER BY shape"
        )
        for (shape,) in list(shapes):
            query = (
                "SELECT n, item, json_extract(seen, '$.sketch'), ref, hash FROM candidate "
                "WHERE NOT gone AND shape = ? ORDER BY has_text DESC, n"
            )
            numbers, items, sketches, scans = [], [], [], []
            for n, item, sketch, ref, digest in self.ledger.rows(query, (shape,)):
                numbers.append(n)
                items.append(item)
                sketches.append(np.frombuffer(base64.b64decode(sketch), "<i2"))
                scans.append((ref, digest))
            stacked = np.stack(sketches).reshape(-1, *THUMBNAIL)
            is_same = functools.partial(self._is_same, scans)
            for first, other, offset in near_copies(stacked, is_same):
                yield (
                    numbers[other],
                    items[other],
                    rules.near_duplicate_volume(items[first], offset),
                )

    def _is_same(
        self, scans: list[tuple[str, str]], first: int, other: int, offset_hu: float
    ) -> bool:
        """Compare two volumes whose sketches are near, voxel by voxel, once for all runs."""
        pair = " ".join(digest for _, digest in (scans[first], scans[other]))
        known = list(self.ledger.rows("SELECT same FROM compared WHERE pair = ?", (pair,)))
        if known:
            return bool(known[0][0])
        try:
            one, two = (
                read_ref(_ref_from_json(scans[k][0]), self.config.check) for k in (first, other)
            )
        except MedFinderError:  # it could be read a moment ago; without it, both are kept
            return False
        same = is_same_scan(one, two, offset_hu)
        self.ledger.run("INSERT OR REPLACE INTO compared VALUES (?, ?)", (pair, int(same)))
        return same

    # --- names and words ---------------------------------------------------------------------

    def name(self) -> None:
        """Give every study and patient an id that is fit for files and URLs, and its own."""
        db = self.ledger.db
        db.create_function("safe_id", 1, safe_id, deterministic=True)
        db.create_function("short_hash", 1, short_hash, deterministic=True)
        db.execute(
            "INSERT INTO name SELECT 'study', study, safe_id(study) FROM candidate WHERE NOT gone "
            "UNION SELECT 'patient', patient, safe_id(patient) FROM candidate WHERE NOT gone"
        )
        # Two names that make one id: all but the one that is the id get a mark of their own.
        # Such a mark may make a third's id, so until there is none.
        mark = (
            "UPDATE name SET safe = safe || '-' || short_hash(raw) WHERE raw != safe AND "
            "(kind, safe) IN (SELECT kind, safe FROM name GROUP BY kind, safe HAVING count(*) > 1)"
        )
        while db.execute(mark).rowcount:
            pass

    def read_words(self) -> None:
        """De-identify, parse and judge each study's words."""
        config = self.config.text
        query = (
            "SELECT s.safe, p.safe, n, facts, json_extract(seen, '$.known') FROM candidate "
            "JOIN name s ON s.kind = 'study' AND s.raw = study "
            "JOIN name p ON p.kind = 'patient' AND p.raw = patient WHERE NOT gone ORDER BY n"
        )

        def items() -> Iterator[tuple[str, Words]]:
            for study_id, patient_id, n, facts_json, known in self.ledger.rows(query):
                facts = facts_from_json(facts_json)
                numbers = (facts.patient_id, facts.study_id)  # a word for an id is no identity
                also = (
                    facts.raw_patient_id,
                    facts.raw_study_id,
                    *(x for x in numbers if x and sum(c.isdigit() for c in x) >= 4),
                )
                words = Words(
                    text=facts.text,
                    translation=facts.translation,
                    language=facts.language,
                    labels=facts.labels,
                    known=(*facts.known, *json.loads(known or "[]"), *(x for x in also if x)),
                )
                yield json.dumps([study_id, patient_id, n, facts.split]), words

        def studies() -> Iterator[tuple[Any, ...]]:
            for name, read in read_texts(items(), config, self.own_engine):
                study_id, patient_id, n, split = json.loads(name)
                present = dict.fromkeys(f.name for f in read.findings if f.status == "present")
                found = json.dumps(list(present))
                yield study_id, patient_id, n, read.to_json(), read.key, found, split

        self.ledger.many("INSERT INTO study VALUES (?, ?, ?, ?, ?, ?, ?)", studies())

    def translate(self, translator: Translator) -> None:
        """Make English of every report that has none; what fails its checks is kept as refused."""
        self.ledger.db.execute(
            "CREATE TEMP TABLE todo AS SELECT study_id, "
            "json_extract(text, '$.report.text') AS report FROM study "
            "WHERE json_extract(text, '$.report.language') != 'en' "
            "AND json_extract(text, '$.translation') IS NULL ORDER BY study_id"
        )
        cache = self.out / PRIVATE / "translations.db"
        items = self.ledger.rows("SELECT study_id, report FROM todo")
        for made in translate_all(items, translator, cache, config=self.config.translate):
            (plain,) = self.ledger.db.execute(
                "SELECT text FROM study WHERE study_id = ?", (made.id,)
            ).fetchone()
            read = ReadText.from_json(plain).with_translation(
                made.text, made.rejected_text, [(p.rule, p.reason) for p in made.problems]
            )
            self.ledger.db.execute(
                "UPDATE study SET text = ? WHERE study_id = ?", (read.to_json(), made.id)
            )

    # --- texts across studies ----------------------------------------------------------------

    def compare_texts(self) -> None:
        """Doubt texts that several patients share, and originals with several translations."""
        self.ledger.db.execute(
            "INSERT INTO said SELECT 'original', text_key, study_id, patient_id FROM study "
            "WHERE text_key != '' UNION ALL "
            "SELECT 'english', json_extract(text, '$.translation_key'), study_id, patient_id "
            "FROM study WHERE json_extract(text, '$.translation_key') != ''"
        )
        shared = self.ledger.rows(
            "SELECT study_id, max(n) FROM said JOIN (SELECT key, count(DISTINCT patient_id) AS n "
            "FROM said GROUP BY key HAVING n > 1) USING (key) GROUP BY study_id"
        )
        self.ledger.doubt(
            self._doubt(study_id, "shared-report", rules.shared_report(n - 1))
            for study_id, n in shared
        )
        several = self.ledger.rows(
            "SELECT study_id, n FROM said JOIN (SELECT o.key, count(DISTINCT e.key) AS n "
            "FROM said o JOIN said e ON e.study_id = o.study_id AND e.kind = 'english' "
            "WHERE o.kind = 'original' GROUP BY o.key HAVING n > 1) USING (key) "
            "WHERE kind = 'original' ORDER BY study_id"
        )
        rule = "same-source-other-translation"
        self.ledger.doubt(
            self._doubt(study_id, rule, rules.same_source_other_translation(n))
            for study_id, n in several
        )

    def _doubt(self, study_id: str, rule: str, reason: str) -> Doubt:
        return Doubt(study_id, rule, reason, rules.WEIGHTS.get(rule, rules.DEFAULT_WEIGHT))

    # --- splits ------------------------------------------------------------------------------

    def deal_out(self) -> None:
        """Give every study a split: the source's, or one dealt out by patients and texts."""
        config = self.config.split
        n_without = self.ledger.count("SELECT count(*) FROM study WHERE split IS NULL")
        n_given = self.ledger.count("SELECT count(*) FROM study WHERE split IS NOT NULL")
        if config.method == "source" or (config.method == "auto" and n_given and not n_without):
            return
        patients = [
            p for (p,) in self.ledger.rows("SELECT DISTINCT patient_id FROM study ORDER BY 1")
        ]
        number = {patient: k for k, patient in enumerate(patients)}
        groups = Groups(len(patients))
        if config.texts_apart:
            for together in self._sharing_text():
                groups.join([number[patient] for patient in together])
        n_studies: Counter[int] = Counter()
        findings: dict[int, set[str]] = {}
        for patient, found in self.ledger.rows("SELECT patient_id, findings FROM study"):
            root = groups.root(number[patient])
            n_studies[root] += 1
            findings.setdefault(root, set()).update(json.loads(found))
        # A split that was dealt out stays: whoever trained on a study never meets it in a test.
        settings = config_hash(config)
        before = dict(
            self.ledger.rows("SELECT patient, split FROM dealt WHERE config = ?", (settings,))
        )
        kept = {
            patients[groups.root(number[patient])]: split
            # Where a text joins patients of two splits, train wins: what was trained on is never
            # tested on.
            for patient, split in sorted(before.items(), key=lambda dealt: dealt[1] == "train")
            if patient in number
        }
        dealt = deal(
            [Group(patients[k], n, frozenset(findings[k])) for k, n in sorted(n_studies.items())],
            config,
            kept,
        )
        of_patient = [(dealt[patients[groups.root(k)]], patient) for patient, k in number.items()]
        self.ledger.many("UPDATE study SET split = ? WHERE patient_id = ?", of_patient)
        self.ledger.many(
            "INSERT OR REPLACE INTO dealt VALUES (?, ?, ?)",
            ((settings, patient, split) for split, patient in of_patient),
        )

    def _sharing_text(self) -> Iterator[list[str]]:
        """Yield patients that have a report text in common, or nearly."""
        query = (
            "SELECT key, patient_id FROM said WHERE key IN (SELECT key FROM said GROUP BY key "
            "HAVING count(DISTINCT patient_id) > 1) GROUP BY key, patient_id ORDER BY key"
        )
        for _, group in itertools.groupby(self.ledger.rows(query), key=lambda row: row[0]):
            yield [patient for _, patient in group]
        once = (
            "SELECT min(study_id), json_extract(text, '$.report.text') FROM study "
            "WHERE text_key != '' GROUP BY text_key"
        )
        rarity = Rarity()
        for _, text in self.ledger.rows(once):
            rarity.add(triples(text))
        self.ledger.many(
            "INSERT INTO rare VALUES (?, ?)",
            (
                (triple, study_id)
                for study_id, text in self.ledger.rows(once)
                for triple in rarity.rarest(triples(text))
            ),
        )
        query = (
            "SELECT triple, patient_id, json_extract(text, '$.report.text') FROM rare "
            "JOIN study USING (study_id) WHERE triple IN "
            "(SELECT triple FROM rare GROUP BY triple HAVING count(*) > 1) ORDER BY triple, study_id"
        )
        for _, group in itertools.groupby(self.ledger.rows(query), key=lambda row: row[0]):
            # Each is compared with the first of its chain: near copies of one template all meet it.
            chains: list[tuple[str, frozenset[int]]] = []
            for _, patient, text in group:
                own = triples(text)
                near = [o for o, shingles in chains if jaccard(own, shingles) >= MIN_JACCARD]
                if near:
                    yield [*near, patient]
                else:
                    chains.append((patient, own))

    # --- out ---------------------------------------------------------------------------------

    def write(self) -> tuple[Curated, Manifest]:
        """Write the tables, and return what they hold and the manifest that makes them valid."""
        out, ledger = self.out, self.ledger
        (out / MANIFEST).unlink(missing_ok=True)
        paths = self._copied()
        self._keep_doubts()
        stream_rejections(out / "rejections.parquet", self._rejections())
        stream_doubts(
            out / "doubts.parquet",
            (Doubt(*row) for row in ledger.rows("SELECT * FROM doubt ORDER BY 1, 2, 3")),
        )
        stream_refused(
            out / "translations.parquet",
            ledger.rows(
                "SELECT study_id, json_extract(text, '$.refused') FROM study "
                "WHERE json_extract(text, '$.refused') IS NOT NULL ORDER BY study_id"
            ),
        )
        digest, has_report = hashlib.sha256(), Counter[bool]()

        def studies() -> Iterator[Study]:
            for study in _digested(self._studies(paths), digest):
                has_report[study.report is not None] += 1
                yield study

        stream_studies(out / "studies.parquet", studies())
        by_rule = self._counts("SELECT rule, count(*) FROM rejection GROUP BY rule ORDER BY rule")
        n_studies = ledger.count("SELECT count(*) FROM study")
        n_rejections = sum(by_rule.values())
        if not n_studies:
            raise InputError(
                f"Nothing usable: 0 studies, {n_rejections} rejected. "
                f"See {str(out / 'rejections.parquet')!r} for the reason of each."
                if n_rejections
                else "Nothing usable: no NIfTI file and no DICOM series was found. Check the path.",
                rule="nothing-usable",
            )
        made = Curated(
            out,
            n_studies,
            n_rejections,
            by_rule,
            self._counts("SELECT rule, count(*) FROM doubt GROUP BY rule ORDER BY rule"),
            self._counts("SELECT coalesce(split, ''), count(*) FROM study GROUP BY 1 ORDER BY 1"),
            has_report[True],
        )
        return made, self._manifest(made, digest.hexdigest()[:16])

    def _keep_doubts(self) -> None:
        def doubts() -> Iterator[Doubt]:
            query = (
                "SELECT study_id, json_extract(text, '$.doubts'), json_extract(facts, '$.doubts'), "
                "json_extract(seen, '$.burned_in'), n_patients FROM study "
                "JOIN candidate USING (n) ORDER BY study_id"
            )
            for study_id, of_text, of_source, burned_in, k in self.ledger.rows(query):
                if k > 1:
                    yield self._doubt(study_id, "ids-disagree", rules.study_of_several_patients(k))
                for rule, reason in [*json.loads(of_text), *json.loads(of_source or "[]")]:
                    yield self._doubt(study_id, rule, reason)
                if burned_in:
                    yield self._doubt(study_id, "burned-in-risk", burned_in)

        for batch in _batches(doubts()):
            self.ledger.doubt(batch)

    def _rejections(self) -> Iterator[Rejection]:
        rows = self.ledger.rows("SELECT * FROM rejection ORDER BY 1, 2, 3")
        if not self.config.hide_names:
            yield from (Rejection(*row) for row in rows)
            return
        key = self.config.pseudonym_key
        known: dict[str, str] = {}

        def hidden(item: str) -> str:
            return known.setdefault(item, pseudonym("I", item, key))

        rejections = [
            Rejection(hidden(item), rule, rules.without_names(rule, reason, hidden))
            for item, rule, reason in rows
        ]
        with atomic_write(self.out / PRIVATE / "items.tsv") as file:
            for item, name in known.items():
                line = item.replace("\t", " ").replace("\n", " ")
                file.write(f"{name}\t{line}\n".encode())
        yield from sorted(rejections, key=lambda r: (r.item, r.rule, r.reason))

    def _copied(self) -> dict[str, Path]:
        """Write the copies that are not there yet or of something else; return the studies' paths.

        A copy that is no longer wanted is removed; a study that cannot be copied is left out.
        """
        folder = self.out / COPIES
        paths: dict[str, Path] = {}
        marks: dict[str, str] = {}

        def jobs() -> Iterator[CopyJob]:
            query = (
                "SELECT study_id, patient_id, patient, ref, hash, mark FROM study "
                "JOIN candidate USING (n) JOIN inspected USING (item) ORDER BY study_id"
            )
            key = self.config.pseudonym_key
            for study_id, patient_id, raw, ref, digest, read in self.ledger.rows(query):
                job = CopyJob(
                    ref=_ref_from_json(ref),
                    folder=folder,
                    format=self.config.copy,
                    study_id=study_id,
                    patient_id=patient_id,
                    key=key,
                    days=shift_days(raw, key) if self.config.shift_dates else 0,
                    check=self.config.check,
                    volume_hash=digest,
                )
                paths[study_id] = job.target
                name = job.target.name
                made_of = [read, digest, patient_id, job.days, pseudonym("K", key, key)]
                mark = short_hash(json.dumps([*made_of, medfinder.__version__]))
                marks[name] = mark
                known = list(self.ledger.rows("SELECT mark FROM copy WHERE file = ?", (name,)))
                if known == [(mark,)] and job.target.exists():
                    continue
                if not known and job.target.exists():
                    raise InputError(
                        f"The folder {str(folder)!r} holds files that no run of curate wrote, and "
                        "copies go there. Move them, or give another folder."
                    )
                # Noted before it is written, so that whatever is there is known to be a copy.
                self.ledger.run(
                    "INSERT OR REPLACE INTO copy VALUES (?, ?, '', '{}')", (name, study_id)
                )
                yield job

        wanted = jobs() if self.config.copy != "none" else iter(())
        for job, removed in copy_volumes(wanted, self.own_engine):
            if isinstance(removed, Refused):
                self._without_study(job.study_id, removed)
                del paths[job.study_id], marks[job.target.name]
                continue
            counts = json.dumps(dict(removed.counts))
            self.ledger.run(
                "UPDATE copy SET mark = ?, removed = ? WHERE file = ?",
                (marks[job.target.name], counts, job.target.name),
            )
        for (name,) in list(self.ledger.rows("SELECT file FROM copy ORDER BY file")):
            for left in folder.glob(f".{glob.escape(name)}.*tmp"):  # of a killed run
                _remove(left)
            if name not in marks:
                _remove(folder / name)
                self.ledger.run("DELETE FROM copy WHERE file = ?", (name,))
        return paths

    def _without_study(self, study_id: str, why: Refused) -> None:
        """Leave out a study that was in already."""
        query = "SELECT item FROM study JOIN candidate USING (n) WHERE study_id = ?"
        ((item,),) = list(self.ledger.rows(query, (study_id,)))
        self.ledger.reject([Rejection(item, why.rule, why.reason)])
        self.ledger.run("DELETE FROM study WHERE study_id = ?", (study_id,))
        self.ledger.run("DELETE FROM doubt WHERE study = ?", (study_id,))

    def _studies(self, paths: Mapping[str, Path]) -> Iterator[Study]:
        query = (
            "SELECT study_id, patient_id, patient, facts, seen, ref, text, study.split FROM study "
            "JOIN candidate USING (n) ORDER BY study_id"
        )
        for study_id, patient_id, raw, facts_json, seen_json, ref, text, split in self.ledger.rows(
            query
        ):
            facts, seen = facts_from_json(facts_json), json.loads(seen_json)
            read = ReadText.from_json(text)
            day = facts.study_date
            if day and self.config.shift_dates:
                day = shift_date(day, shift_days(raw, self.config.pseudonym_key))
            maker, part = facts.manufacturer, facts.body_part
            if self.config.text.deidentify:  # a header's or a table's own words, like a report's
                known = (*facts.known, *seen.get("known", ()))
                maker = clean_device(maker or "") or None
                part = clean_descriptor(part or "", known).lower() or None
            d, h, w = seen.get("shape", (0, 0, 0))
            sd, sh, sw = seen.get("spacing_mm", (0.0, 0.0, 0.0))
            path = paths.get(study_id) or (_ref_from_json(ref).path if ref else None)
            series_id = seen.get("series_id", "")
            yield Study(
                study_id=study_id,
                patient_id=patient_id,
                # A copy holds one series, under a UID of its own.
                series_id="" if paths else series_id,
                volume_path=str(path.resolve()) if path else "",
                volume_hash=seen.get("hash", ""),
                shape=(d, h, w),
                spacing_mm=(sd, sh, sw),
                report=read.report,
                findings=read.findings,
                translation=read.translation,
                labels=read.labels,
                sex=facts.sex,
                age=cap_age(facts.age),
                study_date=day,
                manufacturer=maker,
                body_part=part,
                split=split,
                source=self.source.name,
            )

    def _counts(self, query: str) -> dict[str, int]:
        return dict(self.ledger.rows(query))

    def _manifest(self, made: Curated, content: str) -> Manifest:
        settings = to_dict(self.config)
        settings["pseudonym_key"] = "set" if self.config.pseudonym_key else ""
        settings["split"]["key"] = "set" if self.config.split.key else ""
        del settings["workers"]
        removed: Counter[str] = Counter()
        n_reports = n_translated = 0
        query = (
            "SELECT json_extract(text, '$.removed'), json_extract(text, '$.report') IS NOT NULL, "
            "json_extract(text, '$.translation') IS NOT NULL FROM study"
        )
        for kinds, has_report, is_translated in self.ledger.rows(query):
            removed.update(json.loads(kinds))
            n_reports += has_report
            n_translated += is_translated
        headers = "SELECT removed FROM copy JOIN study USING (study_id)"
        for (kinds,) in self.ledger.rows(headers):
            removed.update(json.loads(kinds))
        crossing = leakage(self.ledger.rows("SELECT patient_id, text_key, split FROM study"))
        return Manifest(
            stage="curate",
            config={
                "source": self.source.name,
                **settings,
                "removed": dict(sorted(removed.items())),
                "flow": {
                    "found": made.n_studies + made.n_rejections,
                    "rejected": dict(made.by_rule),
                    "kept": made.n_studies,
                    "with_report": n_reports,
                    "translated": n_translated,
                    "doubted": self.ledger.count("SELECT count(DISTINCT study) FROM doubt"),
                    "splits": dict(made.splits),
                },
                "crossing": crossing,
            },
            parents={"studies": content},
            counts={
                "studies": made.n_studies,
                "rejections": made.n_rejections,
                "doubts": sum(made.doubts_by_rule.values()),
            },
            package_version=medfinder.__version__,
        )


def facts_from_json(text: str) -> Facts:
    """Return the `Facts` of a JSON object of its fields."""
    plain = json.loads(text)
    for name in ("labels", "known", "doubts"):
        value = plain.get(name)
        if value is not None:
            plain[name] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return Facts(**plain)


def _storable(facts: Facts) -> Facts:
    """Return facts whose every text a file can hold; ids in the one form of their characters."""

    def clean(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(clean(each) for each in value)
        return storable(value) if isinstance(value, str) else value

    plain = {field.name: clean(getattr(facts, field.name)) for field in dataclasses.fields(facts)}
    for name in ("text", "translation"):  # no word of a report is made of such a half
        plain[name] = getattr(facts, name).encode("utf-8", "ignore").decode()
    for name in ("study_id", "patient_id", "raw_study_id", "raw_patient_id"):
        if plain[name]:  # an accent may be written in two ways; a patient is one
            plain[name] = unicodedata.normalize("NFC", plain[name])
    return Facts(**plain)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _choice(item: str, seen: Mapping[str, Any], kernel: str) -> rules.Choice:
    n_slices = int(seen["shape"][0]) if "shape" in seen else 0
    depth_mm = n_slices * float(seen["spacing_mm"][0]) if "spacing_mm" in seen else 0.0
    kernel = kernel or str(seen.get("tags", {}).get("kernel", ""))
    return rules.Choice(item, n_slices, depth_mm, kernel)


def _is_utf8(path: Path) -> bool:
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _ref_to_json(ref: VolumeRef) -> str:
    files = [str(file) for file in ref.files]
    return json.dumps([str(ref.path), ref.kind, ref.series_id, ref.item, files])


def _ref_from_json(text: str) -> VolumeRef:
    path, kind, series_id, item, files = json.loads(text)
    return VolumeRef(Path(path), kind, series_id, item, tuple(Path(file) for file in files))


def _batches(rows: Iterable[Any], size: int = 512) -> Iterator[list[Any]]:
    waiting = iter(rows)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def _digested(studies: Iterator[Study], digest: Any) -> Iterator[Study]:
    for study in studies:
        plain = dataclasses.asdict(study)
        del plain["volume_path"]  # a dataset that moves is the same dataset
        digest.update(json.dumps(plain, sort_keys=True).encode("utf-8", "surrogatepass"))
        yield study


__all__ = ["SPLITS", "CurateConfig", "Curated", "curate"]
