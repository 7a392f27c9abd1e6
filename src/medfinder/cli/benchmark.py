"""``medfinder benchmark``: vectors, or a model, and studies → numbers that can be compared."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress, say


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("benchmark")(benchmark)


def benchmark(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An .npz of embeddings; a checkpoint's folder, an encoder of 'medfinder list "
            "encoders' or an id on the Hub; chance, bm25, minilm or shortcut; or module:function.",
        ),
    ],
    studies: Annotated[
        Path,
        typer.Argument(
            help="Folder that 'medfinder curate' wrote, or a CSV or Parquet table of study_id, "
            "patient_id, report and findings."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for results.json, run files and the report.")],
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of 'medfinder list protocols'; repeatable. None for all that the data allow."
        ),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another model's benchmark on the same studies; repeatable."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Studies of this split, or 'all'; 'test' where the studies have splits, else all."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What tables call the model; from MODEL otherwise.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="For shortcut: studies it learns from, their split 'train'.")
    ] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of 'medfinder list perturbations': what the encoder is given is changed so; "
            "repeatable, in order."
        ),
    ] = None,
    centre: Annotated[
        bool,
        typer.Option(
            "--centre",
            help="Take the mean from the vectors first, as suits an encoder that was not trained to "
            "compare.",
        ),
    ] = False,
    draws: Annotated[
        int,
        typer.Option(help="Draws of each interval; 1000 give ends to about a tenth of its width."),
    ] = 1000,
    depth: Annotated[
        int, typer.Option(help="Items of each query in the TREC run files; 0 for no files.")
    ] = 100,
    report: Annotated[
        bool, typer.Option(help="Write report.html, report.md and report.tex, with pictures.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Measure retrieval under named protocols, with intervals, chance and ceiling.

    Example: medfinder benchmark embeddings.npz studies.csv result

    Example: medfinder benchmark run/checkpoint studies result --protocol deduplicated --compare old

    Example: medfinder benchmark medfinder studies noisy --perturb noise-30hu --compare clean

    embeddings.npz holds the arrays study_id, volume and text, and may hold keyword and keyword_name.
    """
    import dataclasses

    from medfinder.benchmark.benchmark import BenchmarkConfig, run_benchmark
    from medfinder.benchmark.entrant import centred
    from medfinder.benchmark.protocols import protocols
    from medfinder.benchmark.reference import read_reference
    from medfinder.benchmark.source import open_entrant

    for asked in protocol or ():
        protocols.get(asked)
    reference = read_reference(studies, split)
    learnt = None if train is None else read_reference(train, "train")
    with progress("Reading") as advance:

        def tell(n: int, total: int, what: str) -> None:
            advance(n, total, what)

        entrant = open_entrant(
            model,
            reference,
            out / "embeddings",
            train=learnt,
            perturb=perturb or (),
            progress=tell,
        )
        if centre:
            entrant = centred(entrant)
        if name:
            entrant = dataclasses.replace(entrant, name=name)
        made = run_benchmark(
            entrant,
            reference,
            out,
            protocol,
            BenchmarkConfig(n_draws=draws, depth=depth),
            compare_with=compare or (),
            report=report,
            progress=tell,
        )
    results = made.results
    if json_:
        emit(dataclasses.asdict(results))
    for asked_, why in results.not_asked.items():
        say(f"Not asked: {asked_} ({why.rule}). {why.reason}")
    for note in results.notes:
        say(f"Note: {note}")
    done(
        f"{results.model}: {len(results.protocols)} protocols over {results.n_studies} studies of "
        f"{results.n_patients} patients in {out}",
        f"open {out / 'report.html'}" if report else f"less {out / 'results.json'}",
    )
