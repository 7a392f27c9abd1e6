"""``medfinder search``: an index and a query → hits."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import emit, out, quoted, say
from medfinder.errors import InputError
from medfinder.records import Hit


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("search")(search)


def search(
    index: Annotated[
        str,
        typer.Argument(help="What 'medfinder index' wrote: a folder, s3://… or postgresql://…"),
    ],
    text: Annotated[str | None, typer.Argument(help="A sentence, in English or Spanish.")] = None,
    volume: Annotated[
        Path | None, typer.Option(help="A CT: NIfTI file, DICOM file or folder.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Series of --volume, where a folder holds several.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Text file with a report; - for standard input.")
    ] = None,
    keyword: Annotated[
        list[str] | None, typer.Option(help="Finding that a hit must affirm. Repeatable.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="More like this study of the index.")] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="Study that is right: hits resemble it too. Repeatable."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(help="Study that is wrong: hits differ from it. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Finding that a hit must not affirm. Repeatable.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many hits, 1 to 1000.")] = 10,
    offset: Annotated[int, typer.Option(help="Hits to leave out: those of pages before.")] = 0,
    sort: Annotated[
        str, typer.Option(help="Order of the best: score, date, -date, age or -age.")
    ] = "score",
    where: Annotated[
        str | None, typer.Option(help="SQL over the facets: \"sex = 'F' AND age >= 50\".")
    ] = None,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="With --study: keep its patient's other studies.")
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare by this alone: volume, joint, report, bm25, findings. Repeatable."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print hits as JSON.")] = False,
) -> None:
    """Find the studies that match a sentence, a keyword, a report or another CT.

    Examples: medfinder search idx "lung mass in a patient with cancer" --k 5 ·
    medfinder search idx --volume ct.nii.gz · medfinder search idx --keyword nodule --where "age >= 50"
    """
    from medfinder.index.open import shown
    from medfinder.search.finder import open_index

    finder = open_index(index)
    query_volume = None
    if volume is not None:
        from medfinder.volume.read import read_volume

        query_volume = read_volume(volume, series_id=series, config=finder.check)
    hits = finder.search(
        text,
        volume=query_volume,
        report=_read_text(report) if report is not None else None,
        keyword=keyword or None,
        study_id=study,
        like=like or (),
        unlike=unlike or (),
        without=without,
        k=k,
        offset=offset,
        sort=sort,
        where=where,
        exclude_same_patient=not same_patient,
        by=by or None,
    )
    if json_:
        emit([as_json(hit) for hit in hits])
        return
    for hit in hits:
        out.print(line(hit), markup=False, soft_wrap=True)
        for sentence in hit.why.sentences[:1]:
            out.print(f"     {sentence}", markup=False, soft_wrap=True, style="dim")
    if not hits:
        say("No study matches. Loosen --where or --keyword.")
    say(f"Next: medfinder serve {quoted(shown(index))}")


def as_json(hit: Hit) -> dict[str, object]:
    """Return a hit as plain JSON types, without where its volume lies."""
    s = hit.study
    return {
        "rank": hit.rank,
        "study_id": hit.study_id,
        "score": round(hit.score, 6),
        "why": {
            "parts": {name: round(value, 6) for name, value in hit.why.parts.items()},
            "terms": list(hit.why.terms),
            "sentences": list(hit.why.sentences),
        },
        "patient_id": s.patient_id,
        "sex": s.sex,
        "age": s.age,
        "study_date": s.study_date,
        "body_part": s.body_part,
        "spacing_mm": list(s.spacing_mm),
        "shape": list(s.shape),
        "source": s.source,
        "findings": [
            {"name": f.name, "status": f.status, "laterality": f.laterality, "location": f.location}
            for f in s.findings
        ],
        "report": s.report.text if s.report else None,
    }


def line(hit: Hit) -> str:
    """Return a hit as one line for people."""
    s = hit.study
    facts = " ".join(str(x) for x in (s.sex, s.age, s.body_part) if x is not None)
    parts = " ".join(f"{name}={value:.2f}" for name, value in hit.why.parts.items())
    found = ", ".join(dict.fromkeys(f.name for f in s.findings if f.status == "present"))
    return f"{hit.rank:>3}  {hit.score:.3f}  {s.study_id}  [{parts}]  {facts}  {found}".rstrip()


def _read_text(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    if not path.is_file():
        raise InputError(f"There is no report at {str(path)!r}. Check the path.")
    return path.read_text(encoding="utf-8", errors="replace")
