"""Findings of 800 labelled reports: ours, and negspaCy's rules on our mentions, in one run.

Reads ``../shared/data/text/ct_report_labels/train.csv`` (CT-RATE's report labels, not ours to
ship). A quarter of the reports, chosen by a hash of the text so that duplicates stay together,
was not looked at while the vocabulary and rules were written: ``held_out``.

    python benchmarks/findings.py [--quick] [--data FILE]

Without that file there is nothing to measure; without negspaCy (the extra ``bench``) ours is
measured alone and nothing is written.
"""

import argparse
import csv
import hashlib
import importlib.util
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from record import table, write_result

from medfinder.records import Finding, Language
from medfinder.report.findings import extract_findings
from medfinder.report.vocabulary import vocabulary

SPANISH = Path(__file__).resolve().parents[1] / "tests/report/spanish_sentences.toml"
DATA = Path(__file__).resolve().parents[2] / "shared/data/text/ct_report_labels/train.csv"
Statuses = list[tuple[Finding, bool]]  # a mention, and whether it is asserted


def is_held_out(text: str) -> bool:
    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
    return int(digest, 16) % 4 == 0


def mentions(text: str, language: Language = "en") -> list[Finding]:
    """Return our mentions without the labels added on top, one for each name and span."""
    found = extract_findings(text, language)
    return [f for f in found if not _is_added(f, found)]


def _is_added(finding: Finding, found: Sequence[Finding]) -> bool:
    known = vocabulary()
    return any(
        other.name != finding.name
        and known.get(other.name).label == finding.name
        and (other.start, other.end) == (finding.start, finding.end)
        for other in found
    )


def ours(text: str) -> Statuses:
    return [(f, f.status == "present") for f in mentions(text)]


def everything(text: str) -> Statuses:
    return [(f, True) for f in mentions(text)]


def negspacy_rules(language: Language = "en") -> Callable[[str], Statuses]:
    """Return negspaCy's clinical terms of a language on a blank pipeline, judging our mentions."""
    import negspacy.negation  # noqa: F401  registers the component
    import spacy
    from negspacy.termsets import termset

    nlp = spacy.blank(language)
    sentencizer = nlp.add_pipe("sentencizer")
    terms = termset(f"{language}_clinical").get_patterns()
    negex = nlp.add_pipe("negex", config={"neg_termset": terms, "span_keys": ["findings"]})

    def judge(text: str) -> Statuses:
        doc = sentencizer(nlp.make_doc(text))
        found = mentions(text, language)
        spans = [doc.char_span(f.start, f.end, alignment_mode="expand") for f in found]
        doc.spans["findings"] = [span for span in spans if span is not None]
        negex(doc)
        pairs = zip(found, spans, strict=True)
        return [(f, span is None or not span._.negex) for f, span in pairs]

    return judge


def score(rows: Sequence[dict[str, str]], judge: Callable[[str], Statuses]) -> dict[str, Any]:
    known = vocabulary()
    labels = list(rows[0])[2:]
    counts = {label: [0, 0, 0] for label in labels}
    times = []
    for row in rows:
        began = time.process_time()
        judged = judge(row["report_text"])
        times.append(time.process_time() - began)
        stated = {known.get(f.name).label for f, is_stated in judged if is_stated}
        for label in labels:
            said, true = label.lower() in stated, row[label] == "1"
            counts[label][0] += said and true
            counts[label][1] += said and not true
            counts[label][2] += true and not said
    per_label = {}
    for label, (tp, fp, fn) in counts.items():
        per_label[label] = {
            "precision": tp / (tp + fp) if tp + fp else 0.0,
            "recall": tp / (tp + fn) if tp + fn else 0.0,
            "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
            "n_positive": tp + fn,
        }
    return {
        "n_reports": len(rows),
        "macro_f1": statistics.mean(v["f1"] for v in per_label.values()),
        "macro_precision": statistics.mean(v["precision"] for v in per_label.values()),
        "macro_recall": statistics.mean(v["recall"] for v in per_label.values()),
        "cpu_ms_per_report": 1000 * statistics.mean(times),
        "labels": per_label,
    }


def spanish_agreement() -> dict[str, float]:
    """Return the share of expected present/absent mentions told right, in our Spanish sentences.

    Ours were written beside these sentences, so ours is an upper bound; negspaCy's is not.
    """
    sentences = tomllib.loads(SPANISH.read_text(encoding="utf-8"))["sentence"]
    theirs = negspacy_rules("es")
    n = hits_ours = hits_theirs = 0
    for sentence in sentences:
        said_ours = {(f.name, f.status == "absent") for f in mentions(sentence["text"], "es")}
        said_theirs = {(f.name, not is_stated) for f, is_stated in theirs(sentence["text"])}
        for name, status, *_ in sentence["expect"]:
            if status != "uncertain" and name in {said for said, _ in said_ours}:
                n += 1
                hits_ours += (name, status == "absent") in said_ours
                hits_theirs += (name, status == "absent") in said_theirs
    return {"n_mentions": n, "ours": hits_ours / n, "negspacy": hits_theirs / n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first 100 reports only")
    parser.add_argument("--data", type=Path, default=DATA, help="CSV of reports and 18 labels")
    chosen = parser.parse_args()
    if not chosen.data.is_file():
        print(
            "There are no labelled reports: expected ../shared beside the checkout, or --data FILE."
        )
        return
    compares = importlib.util.find_spec("negspacy") is not None
    if not compares:
        print("Without negspaCy: pip install -e '.[bench]' brings what ours is compared with.\n")
    with chosen.data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:100] if chosen.quick else rows
    began = time.process_time()
    extract_findings(rows[0]["report_text"], "en")
    load_s = time.process_time() - began
    plain_ms = []
    for row in rows:
        began = time.process_time()
        extract_findings(row["report_text"])
        plain_ms.append(1000 * (time.process_time() - began))
    parts = {
        "developed_on": [r for r in rows if not is_held_out(r["report_text"])],
        "held_out": [r for r in rows if is_held_out(r["report_text"])],
        "all": rows,
    }
    judges: dict[str, Callable[[str], Statuses]] = {"ours": ours, "no_negation": everything}
    if compares:
        judges["negspacy"] = negspacy_rules()
    figures: dict[str, Any] = {
        "load_s": load_s,
        "extract_cpu_ms_median": statistics.median(plain_ms),
        "extract_cpu_ms_p95": sorted(plain_ms)[int(0.95 * len(plain_ms))],
        "extract_cpu_ms_max": max(plain_ms),
        "scores": {
            name: {part: score(some, judge) for part, some in parts.items()}
            for name, judge in judges.items()
        },
    }
    if compares:
        figures["spanish_sentences"] = spanish_agreement()
    by_label = figures["scores"]["ours"]
    print(
        table(
            [
                {
                    "label": label,
                    "P": f"{by_label['all']['labels'][label]['precision']:.3f}",
                    "R": f"{by_label['all']['labels'][label]['recall']:.3f}",
                    "F1": f"{by_label['all']['labels'][label]['f1']:.3f}",
                    "F1 developed on": f"{by_label['developed_on']['labels'][label]['f1']:.3f}",
                    "F1 held out": f"{by_label['held_out']['labels'][label]['f1']:.3f}",
                    "positive": by_label["all"]["labels"][label]["n_positive"],
                }
                for label in by_label["all"]["labels"]
            ]
        )
    )
    print()
    print(
        table(
            [
                {
                    "rules": name,
                    **{f"macro F1 {part}": f"{s['macro_f1']:.3f}" for part, s in parts_of.items()},
                    "P": f"{parts_of['all']['macro_precision']:.3f}",
                    "R": f"{parts_of['all']['macro_recall']:.3f}",
                    "CPU ms a report": f"{parts_of['all']['cpu_ms_per_report']:.1f}",
                }
                for name, parts_of in figures["scores"].items()
            ]
        )
    )
    print(
        f"\nextract_findings: median {figures['extract_cpu_ms_median']:.2f} ms, "
        f"p95 {figures['extract_cpu_ms_p95']:.2f} ms, max {figures['extract_cpu_ms_max']:.2f} ms "
        f"of CPU a report; first call {load_s * 1000:.0f} ms"
    )
    if not compares:
        return
    print("Spanish sentences of our own:", figures["spanish_sentences"])
    if not chosen.quick:
        print(
            write_result(
                "findings",
                figures,
                notes="negspacy judges our mentions, so its time includes finding them; "
                "a report counts as positive where one mention is asserted.",
            )
        )


if __name__ == "__main__":
    main()
