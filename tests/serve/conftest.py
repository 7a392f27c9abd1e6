"""A small hospital: six studies with CT volumes on disk, and a finder over them."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.errors import InputError, UnknownName
from medfinder.records import Finding, Hit, Report, Study, Why
from medfinder.serve.app import create_app
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume

REPORTS = (
    "There is a solid nodule in the right upper lobe. No pleural effusion.",
    "Large left pleural effusion. The heart is enlarged.",
    "Normal chest. <script>window.hacked = true</script><img src=x onerror=window.hacked=true>",
    "Possible mass in the left lower lobe 🫁. Emphysema of both upper lobes.",
    "Bilateral pleural effusion and consolidation.",
    None,
)
FINDINGS = ("nodule", "pleural effusion", "mass", "emphysema", "consolidation")


class SmallIndex:
    """The few methods of an index that the service calls, over a list of studies."""

    columns = ("sex", "age", "findings_present", "manufacturer", "language")

    def __init__(self, studies):
        self.by_id = {s.study_id: s for s in studies}

    def studies(self, ids):
        if any(i not in self.by_id for i in ids):
            raise UnknownName("There is no such study in this index.")
        return [self.by_id[i] for i in ids]

    def count(self, where=None):
        return len(self.by_id)

    def facets(self, column, where=None):
        counts = Counter()
        for study in self.by_id.values():
            if column == "findings_present":
                counts.update({f.name for f in study.findings if f.status == "present"})
            elif column == "language":
                counts[study.report and study.report.language] += 1
            else:
                counts[getattr(study, column)] += 1
        return dict(counts)


class SmallFinder:
    """Finds by counting words; what it was asked is kept in `asked`."""

    def __init__(self, studies):
        self.index = SmallIndex(studies)
        self.asked = []

    def status(self):
        return {"n_studies": self.index.count(), "encoders": {"volume": "v@1", "report": "r@1"}}

    def search(self, text=None, *, k=10, where=None, **query):
        self.asked.append({"text": text, "k": k, "where": where, **query})
        if where and "no_such_column" in where:
            raise InputError("The filter has no column no_such_column. Known: sex, age.")
        words = re.findall(r"\w{4,}", (text or query.get("report") or "").lower())
        words += list(query.get("keyword") or [])
        hits = []
        for study in self.index.by_id.values():
            body = study.report.text if study.report else ""
            sentences = [
                s for s in re.split(r"(?<=\.) ", body) if any(w in s.lower() for w in words)
            ]
            terms = tuple(w for w in words if w in body.lower())
            hits.append(
                (len(terms), study, Why({"bm25": len(terms) * 2.5}, terms, tuple(sentences)))
            )
        hits.sort(key=lambda hit: (-hit[0], hit[1].study_id))
        return [
            Hit(rank, study.study_id, float(score), why, study)
            for rank, (score, study, why) in enumerate(hits[:k], start=1)
        ]


def chest(seed, shape=(20, 48, 64), spacing_mm=(5.0, 2.0, 1.5)):
    """A body with two lungs, the right one larger, and a little noise, int16 HU."""
    d, h, w = shape
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.8) ** 2 < 1] = 40
    high = 0.75 - 0.5 * (z - 0.1) ** 2
    for side, size in ((0.4, 0.32), (-0.4, 0.26)):
        hu[((x - side) / size) ** 2 + (y / (0.7 * high)) ** 2 < 1] = -820
    hu += np.random.default_rng(seed).normal(0, 12, shape)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1
    return Volume(hu.astype(np.int16), affine)


def mentions(text):
    found = []
    for name in FINDINGS:
        for match in re.finditer(name, text, re.IGNORECASE):
            before = text[max(0, match.start() - 10) : match.start()].lower()
            status = "absent" if "no " in before else "uncertain" if "poss" in before else "present"
            found.append(Finding(name, "C0000001", status, None, None, *match.span()))
    return tuple(found)


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("hospital-secret-path")
    made = []
    for i, text in enumerate(REPORTS):
        volume = chest(i)
        path = folder / f"v{i}.nii.gz"
        write_nifti(volume, path)
        made.append(
            Study(
                study_id=f"study-{i}",
                patient_id=f"patient-{i // 2}",
                series_id=f"1.2.3.{i}",
                volume_path=str(path),
                volume_hash=volume.content_hash,
                shape=volume.shape,
                spacing_mm=volume.spacing_mm,
                report=Report(text) if text else None,
                findings=mentions(text or ""),
                sex="FM"[i % 2],
                age=40 + 10 * i,
                manufacturer="ACME",
            )
        )
    return made


@pytest.fixture
def finder(studies):
    return SmallFinder(studies)


@pytest.fixture
def client(finder):
    with TestClient(create_app(finder)) as client:
        yield client


@pytest.fixture
def make_chest():
    return chest
