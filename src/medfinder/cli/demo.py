"""``medfinder demo``: nothing → phantoms, curated, indexed and searched, then the page."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.talk import out, progress, say

if TYPE_CHECKING:
    from medfinder.search.finder import Finder

SIZE = (64, 96, 96)
"""Of the phantoms: the least at which every finding can be seen."""
SENTENCE = "left pleural effusion"
LONGER = "2 cm nodule in the right upper lobe without adenopathy"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("medfinder-demo"),
    n: Annotated[int, typer.Option(help="How many phantom studies.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 1,
    encoder: Annotated[str, typer.Option(help="Volume encoder.")] = "medfinder",
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="End in the page, or in printed results.")
    ] = True,
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8000,
) -> None:
    """Run the whole pipeline on synthetic chest CTs: the first five minutes.

    With an encoder of both streams, such as "medfinder", a sentence and a keyword are then sought in
    the CTs themselves, whatever the reports say, and a CT without a report finds reports; the
    findings printed beside each hit are those of its report.

    Examples: medfinder demo --no-serve · medfinder demo --encoder astra --n 24
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
        write_phantoms(raw, n, seed, size=SIZE, workers=0, progress=advance)
    say(f"1/3  {n} phantom CTs with reports in {raw}")
    with progress("2/3 curating") as advance:
        made = curate(FolderSource(raw, raw / "studies.csv"), studies, progress=advance)
    say(f"2/3  {made.n_studies} studies, {made.n_rejections} rejected, in {studies}")
    with progress("3/3 embedding volumes") as advance:
        built = build_index(studies, index, encoder=encoder, progress=advance)
    say(f"3/3  {built.n_studies} studies indexed in {index}")

    finder = open_index(index)
    for shown, query in _queries(finder, folder / "another", seed + 1):
        out.print(f"\n$ medfinder search {index} {shown} --k 3", markup=False, soft_wrap=True)
        for hit in finder.search(k=3, **query):
            out.print(line(hit), markup=False, soft_wrap=True)
            for sentence in hit.why.sentences[:1] if "volume" in query else ():
                out.print(f"     {sentence}", markup=False, soft_wrap=True, style="dim")
    say(f"\nThe demo took {time.monotonic() - start:.0f} s.")
    if not serve:
        say(f"Next: medfinder serve {index}")
        return
    from medfinder.cli.serve import end
    from medfinder.serve.app import serve as run

    end(run(index, host="127.0.0.1", port=port, open_browser=True))


def _queries(finder: "Finder", folder: Path, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what to ask: as it is typed, and as `Finder.search` takes it.

    Args:
        folder: For a CT that is not in the index and has no report.
        seed: Of that CT.
    """
    if not finder.has_joint_space:
        example = finder.search(keyword="pleural effusion", k=1)
        asked: list[tuple[str, dict[str, Any]]] = [
            (f'"{SENTENCE}"', {"text": SENTENCE}),
            ("--keyword nodule", {"keyword": "nodule"}),
        ]
        like = [(f"--study {hit.study_id}", {"study_id": hit.study_id}) for hit in example]
        return [*asked, *like]
    from medfinder.phantom.phantom import write_phantoms
    from medfinder.volume.read import read_volume

    write_phantoms(folder, 1, seed, size=SIZE)
    (path,) = (folder / "volumes").iterdir()
    volume = read_volume(path, config=finder.check)
    return [
        (f'"{SENTENCE}" --by volume', {"text": SENTENCE, "by": "volume"}),
        (f'"{LONGER}" --by volume', {"text": LONGER, "by": "volume"}),
        ("--keyword cardiomegaly --by volume", {"keyword": "cardiomegaly", "by": "volume"}),
        (f"--volume {path} --by joint", {"volume": volume, "by": "joint"}),
    ]
