"""``medfinder curate``: raw CTs and reports → studies and rejections."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medfinder.cli.talk import done, emit, progress, quoted, say

if TYPE_CHECKING:
    from medfinder.curate.sources.source import Source
    from medfinder.report.translate import Translator
    from medfinder.volume.read import VolumeRef

_Config = Annotated[Path | None, typer.Option(help="TOML file; its table 'curate' is read.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting: check.min_slices=20. Repeatable."),
]
_Translate = Annotated[
    str | None,
    typer.Option(
        "--translate",
        help="Make English of Spanish reports: apertium, chat or marian. See translate.",
    ),
]
_Card = Annotated[
    bool,
    typer.Option("--card/--no-card", help="Write card.md and card.html: what the dataset holds."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
_Ray = Annotated[
    str | None,
    typer.Option(
        help="Read and copy on a Ray cluster: auto (this machine's, or that of RAY_ADDRESS), local "
        "(started for this run), or an address. Its machines see the same files."
    ),
]
_Out = Annotated[Path, typer.Argument(help="Folder to write.")]
_Fhir = Annotated[
    str | None,
    typer.Option(help="FHIR DiagnosticReports: .ndjson, a Bundle, a folder, or a search's URL."),
]
_Sr = Annotated[
    Path | None, typer.Option(help="Folder, or file, of DICOM Structured Reports of the studies.")
]


def register(app: typer.Typer) -> None:
    """Add the verb, with one command a source, to the application."""
    sources = typer.Typer(
        help="Turn raw CTs and reports into studies, and say what was left out.",
        no_args_is_help=True,
    )
    for command in (folder, bimcv, bimcv_r, ct_rate, merlin, dicomweb):
        sources.command(command.__name__.replace("_", "-"))(command)
    app.add_typer(sources, name="curate")


def folder(
    root: Annotated[
        Path, typer.Argument(help="Folder of NIfTI files and DICOM series, any depth.")
    ],
    out: _Out,
    reports: Annotated[
        Path | None,
        typer.Option(
            help="CSV, TSV, XLSX or JSON table: file or study_id, text, and what else is known."
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Column that holds the report, if not called text, report, …")
    ] = None,
    fhir: _Fhir = None,
    sr: _Sr = None,
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Curate a folder of CTs, with or without reports.

    Example: medfinder curate folder ./archive studies --reports reports.csv

    A report of --fhir counts before one of --sr, and that before the table's.

    Bad items never stop the run: each is a row of OUT/rejections.parquet with its reason.
    """
    from medfinder.curate.sources.folder import FolderSource

    source = _reported(FolderSource(root, reports, text), fhir, sr)
    _run(source, out, translate, config, set_ or (), card, json_, ray)


def bimcv(
    root: Annotated[
        Path, typer.Argument(help="A BIMCV-COVID19 collection as released, or a folder of several.")
    ],
    out: _Out,
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Curate the raw BIMCV-COVID19 tree: CT out of CT, CR and DX, with its tables of labels.

    Example: medfinder curate bimcv ./covid19_posi studies

    Reads sub-*/ses-*/mod-*/*_ct.nii.gz with their .json, participants.tsv and
    derivatives/labels/labels_*.tsv. X-rays are rows of OUT/rejections.parquet.
    """
    from medfinder.curate.sources.bimcv import BimcvSource

    _run(BimcvSource(root), out, translate, config, set_ or (), card, json_, ray)


def bimcv_r(
    table: Annotated[Path, typer.Argument(help="The published table: CSV, TSV or XLSX.")],
    out: _Out,
    volumes: Annotated[
        Path | None, typer.Option(help="Folder with the shards CT1 to CT10, any depth.")
    ] = None,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Curate reports and labels without any volume.")
    ] = False,
    every_volume: Annotated[
        bool,
        typer.Option("--every-volume", help="Make each volume a study, not each ReportID."),
    ] = False,
    split: Annotated[
        Literal["own", "published"],
        typer.Option(help="published: the authors', by shard. own: made by patient."),
    ] = "own",
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Curate the published BIMCV-R: its table, with or without the volumes.

    Example: medfinder curate bimcv-r meta/BIMCV-R.csv studies --volumes .

    Volumes are matched to rows by file name. Of the volumes of one ReportID the best one stands
    for the study, unless --every-volume.
    """
    from medfinder.curate.sources.bimcv_r import BimcvRSource
    from medfinder.errors import InputError

    if (volumes is None) != table_only:
        raise InputError(
            "Where the volumes lie is not clear: expected one of --volumes DIR and --table-only, "
            f"got {'both' if table_only else 'neither'}. Give one of them."
        )
    source = BimcvRSource(table, volumes, every_volume=every_volume, split=split)
    _run(source, out, translate, config, set_ or (), card, json_, ray)


def ct_rate(
    root: Annotated[
        Path, typer.Argument(help="CT-RATE's folder, or a part of it with its tables.")
    ],
    out: _Out,
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Curate CT-RATE: volumes, reports, the 18 labels and the scanner's metadata.

    Example: medfinder curate ct-rate ./CT-RATE/dataset studies

    Reconstructions of a scan are series of one study. The files hold HU already: the metadata's
    rescale is not applied again.
    """
    from medfinder.curate.sources.ct_rate import CtRateSource

    _run(CtRateSource(root), out, translate, config, set_ or (), card, json_, ray)


def merlin(
    root: Annotated[Path, typer.Argument(help="Merlin's folder: merlin_data and the spreadsheet.")],
    out: _Out,
    reports: Annotated[
        Path | None, typer.Option(help="The table of reports, if it lies elsewhere: XLSX or CSV.")
    ] = None,
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Curate Merlin: abdominal CTs, and their reports in a spreadsheet.

    Example: medfinder curate merlin ./merlinabdominalctdataset studies
    """
    from medfinder.curate.sources.merlin import MerlinSource

    _run(MerlinSource(root, reports), out, translate, config, set_ or (), card, json_, ray)


def dicomweb(
    url: Annotated[
        str, typer.Argument(help="Root of the PACS's DICOMweb: http://host:8042/dicom-web.")
    ],
    out: _Out,
    download: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what is retrieved, identified as it is; OUT-pacs if not given."
        ),
    ] = None,
    from_date: Annotated[
        str | None, typer.Option(help="First day of the studies, such as 2020-03-01.")
    ] = None,
    to_date: Annotated[str | None, typer.Option(help="Last day of the studies.")] = None,
    body_part: Annotated[
        str, typer.Option(help="BodyPartExamined of the series, such as CHEST.")
    ] = "",
    patients: Annotated[
        Path | None, typer.Option(help="Text file of the PatientIDs that are wanted, one a line.")
    ] = None,
    accessions: Annotated[
        Path | None, typer.Option(help="Text file of accession numbers, one a line.")
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV, XLSX or JSON table: study_id or accession, and text."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Column that holds the report, if not called text, report, …")
    ] = None,
    fhir: _Fhir = None,
    sr: _Sr = None,
    translate: _Translate = None,
    config: _Config = None,
    set_: _Set = None,
    card: _Card = True,
    ray: _Ray = None,
    json_: _Json = False,
) -> None:
    """Retrieve CT studies from a PACS and curate them, with the Structured Reports it has.

    Example: medfinder curate dicomweb http://pacs:8042/dicom-web studies --from-date 2020-03-01

    A run that stops goes on where it stopped. Credentials come from the environment:
    MEDFINDER_PACS_TOKEN, or MEDFINDER_PACS_USER and MEDFINDER_PACS_PASSWORD; MEDFINDER_FHIR_* alike.
    """
    from medfinder.curate.sources.dicomweb import DicomwebSource, PacsQuery

    query = PacsQuery(
        from_date=_day(from_date),
        to_date=_day(to_date),
        body_part=body_part,
        patients=_lines(patients),
        accessions=_lines(accessions),
    )
    download = download or out.with_name(f"{out.name}-pacs")
    pacs = DicomwebSource(url, download, query, reports, text)
    source = _reported(pacs, fhir, sr, pacs.accession)
    _run(source, out, translate, config, set_ or (), card, json_, ray)


def _day(text: str | None) -> date | None:
    from medfinder.curate.sources.source import parse_date
    from medfinder.errors import ConfigError

    if text is None:
        return None
    found = parse_date(text)
    if found is None:
        raise ConfigError(f"A day is written as 2020-03-01, got {text[:20]!r}. Write it so.")
    return date.fromisoformat(found)


def _lines(path: Path | None) -> tuple[str, ...]:
    from medfinder.errors import InputError

    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"The list {str(path)!r} cannot be read: expected a text file in UTF-8, one number a "
            "line. Check it."
        ) from None
    found = tuple(dict.fromkeys(filter(None, (line.strip() for line in lines))))
    if not found:  # an empty list must not come to mean all
        raise InputError(
            f"The list {str(path)!r} is empty: expected one number a line. Fill it, or leave it out."
        )
    return found


def _reported(
    source: "Source",
    fhir: str | None,
    sr: Path | None,
    accession: "Callable[[VolumeRef], str] | None" = None,
) -> "Source":
    """Give the studies of a source the reports of other places, the last one's first."""
    from medfinder.curate.sources.reports import Reported, Reports

    if sr is not None:
        from medfinder.curate.sources.reports_sr import read_sr

        source = Reported(source, Reports(read_sr(sr)), accession)
    if fhir is not None:
        from medfinder.curate.sources.reports_fhir import read_fhir

        source = Reported(source, Reports(read_fhir(fhir)), accession)
    return source


def _run(
    source: "Source",
    out: Path,
    translate: str | None,
    config: Path | None,
    set_: Sequence[str],
    card: bool,
    json_: bool,
    ray: str | None,
) -> None:
    """Curate what any source gives, and print what came of it."""
    from medfinder.artifact import read_manifest
    from medfinder.config import load_config
    from medfinder.curate.curate import CurateConfig, curate
    from medfinder.scale.choose import open_engine

    settings = load_config(CurateConfig, config, set_, section="curate")
    translator = _translator(translate) if translate else None
    with open_engine(ray=ray) as engine, progress("Reading volumes") as advance:
        made = curate(source, out, settings, advance, translator, engine)
    if card:
        from medfinder.curate.card import write_card

        write_card(out)
    if json_:
        emit(
            {
                "folder": str(out),
                "studies": made.n_studies,
                "rejections": made.n_rejections,
                "by_rule": made.by_rule,
                "doubts_by_rule": made.doubts_by_rule,
                "splits": made.splits,
                "reports": made.n_reports,
            }
        )
    rejected = (
        f", {made.n_rejections} rejected ({_counts(made.by_rule)}): see {out / 'rejections.parquet'}"
        if made.n_rejections
        else ", none rejected"
    )
    crossing = read_manifest(out, "curate").config["crossing"]
    crossed = f". Across splits: {_counts(crossing)}" if any(crossing.values()) else ""
    doubted = (
        f". Doubts for an expert ({_counts(made.doubts_by_rule)}): medfinder review status {out}"
        if made.doubts_by_rule
        else ""
    )
    if not made.n_reports:
        say(
            "No study has a report. --reports names a table of them, --text its column if that is not "
            "called text, report or the like."
        )
    n_without = made.n_studies - made.n_reports
    without = f", {n_without} without a report" if n_without else ""
    done(
        f"{made.n_studies} studies ({_counts(made.splits)}){without}{crossed}{rejected}{doubted}",
        f"medfinder index {quoted(out)} idx --encoder astra",
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _translator(name: str) -> "Translator":
    if name == "marian":
        import medfinder.model.marian  # noqa: F401  it registers itself
    from medfinder.report.translate import translator

    return translator(name)
