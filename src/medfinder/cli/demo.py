"""``medfinder demo``: nothing → phantoms, curated, indexed and searched, then the page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import out, progress, say


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("medfinder-demo"),
    n: Annotated[int, typer.Option(help="How many phantom studies.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 1,
    encoder: Annotated[str, typer.Option(help="Volume encoder.")] = "astra",
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="End in the page, or in printed results.")
    ] = True,
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8000,
) -> None:
    """Run the whole pipeline on synthetic chest CTs: the first five minutes.

    Example: medfinder demo --no-serve
    """
    from medfinder.cli.search import line
    from medfinder.curate.curate import curate
    from medfinder.curate.sources.folder import FolderSource
    from medfinder.phantom.phantom import write_phantoms
    from medfinder.search.build import build_index
    from medfinder.search.finder import open_index

    start = time.monotonic()
    raw, studies, index = folder / "phantoms", folder / "studies", folder / "index"
    with progress("1/3 drawing phantoms") as advance:
        write_phantoms(raw, n, seed, workers=0, progress=advance)
    say(f"1/3  {n} phantom CTs with reports in {raw}")
    with progress("2/3 curating") as advance:
        made = curate(FolderSource(raw, raw / "studies.csv"), studies, progress=advance)
    say(f"2/3  {made.n_studies} studies, {made.n_rejections} rejected, in {studies}")
    with progress("3/3 embedding volumes") as advance:
        built = build_index(studies, index, encoder=encoder, progress=advance)
    say(f"3/3  {built.n_studies} studies indexed in {index}")

    finder = open_index(index)
    example = finder.search(keyword="pleural effusion", k=1)
    queries: list[tuple[str, dict[str, str]]] = [
        ('"left pleural effusion"', {"text": "left pleural effusion"}),
        ("--keyword nodule", {"keyword": "nodule"}),
    ]
    if example:
        queries.append((f"--study {example[0].study_id}", {"study_id": example[0].study_id}))
    for shown, query in queries:
        out.print(f"\n$ medfinder search {index} {shown} --k 3", markup=False, soft_wrap=True)
        for hit in finder.search(k=3, **query):  # type: ignore[arg-type]
            out.print(line(hit), markup=False, soft_wrap=True)
    say(f"\nThe demo took {time.monotonic() - start:.0f} s.")
    if not serve:
        say(f"Next: medfinder serve {index}")
        return
    from medfinder.serve.app import serve as run

    run(index, host="127.0.0.1", port=port, open_browser=True)
