"""The slow truth for a dataset's numbers: every study held, every number by its definition."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from medfinder.records import Doubt, Rejection, Study


def numbers(
    studies: Sequence[Study], rejections: Sequence[Rejection], doubts: Sequence[Doubt]
) -> dict[str, Any]:
    """Return what `medfinder.curate.statistics.Statistics` calls by the same names."""
    with_volume = [s for s in studies if s.volume_hash]
    with_report = [s for s in studies if s.report]
    texts = [folded(s.text) for s in with_report]
    splits = {s.split or "unsplit" for s in studies}
    return {
        "n_studies": len(studies),
        "n_patients": len({s.patient_id for s in studies}),
        "n_volumes": len(with_volume),
        "n_slices": sum(s.shape[0] for s in with_volume),
        "n_reports": len(with_report),
        "n_labelled": len([s for s in studies if s.labels]),
        "n_shared_texts": len([t for t in texts if texts.count(t) > 1]),
        "n_crossing_patients": len(
            [p for p in {s.patient_id for s in studies} if len(splits_of(studies, p)) > 1]
        ),
        "n_crossing_texts": len(
            [
                t
                for t in set(texts)
                if len({s.split for s in with_report if folded(s.text) == t}) > 1
            ]
        ),
        "n_doubted": len({d.study_id for d in doubts}),
        "n_rejections": len(rejections),
        "sexes": Counter(s.sex or "unknown" for s in studies),
        "manufacturers": Counter(s.manufacturer or "unknown" for s in studies),
        "languages": Counter(s.report.language for s in with_report if s.report),
        "affirmed": Counter(
            name
            for s in with_report
            for name in {f.name for f in s.findings if f.status == "present"}
        ),
        "labels": Counter(label for s in studies for label in set(s.labels)),
        "states": {
            (state(s), s.split or "unsplit"): len(
                [o for o in studies if (state(o), o.split) == (state(s), s.split)]
            )
            for s in studies
        },
        "ages": summary([s.age for s in studies if s.age is not None]),
        "slices": summary([s.shape[0] for s in with_volume]),
        "slice_spacing_mm": summary([round(s.spacing_mm[0], 2) for s in with_volume]),
        "pixel_spacing_mm": summary([round(s.spacing_mm[2], 2) for s in with_volume]),
        "words": summary([len(words(s.text)) for s in with_report]),
        "studies_per_patient": summary(
            [
                len([s for s in studies if s.patient_id == p])
                for p in {s.patient_id for s in studies}
            ]
        ),
        "parts": {
            split: (
                len([s for s in studies if (s.split or "unsplit") == split]),
                len({s.patient_id for s in studies if (s.split or "unsplit") == split}),
                len([s for s in with_report if (s.split or "unsplit") == split]),
            )
            for split in splits
        },
        "rejections": Counter(r.rule for r in rejections),
        "doubts": Counter(d.rule for d in doubts),
    }


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    if not values:
        return {"n": 0, "mean": None, "median": None, "minimum": None, "maximum": None}
    return {
        "n": len(values),
        "mean": statistics.mean(values),
        "median": statistics.median(values),
        "minimum": min(values),
        "maximum": max(values),
    }


def words(text: str) -> list[str]:
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def splits_of(studies: Sequence[Study], patient: str) -> set[str | None]:
    return {s.split for s in studies if s.patient_id == patient}


def state(study: Study) -> str:
    if study.report is None:
        return "no-report"
    if study.translation:
        return "translated"
    return "english" if study.report.language == "en" else "untranslated"
