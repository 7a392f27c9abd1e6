"""``medfinder train``: studies and a recipe → a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit, progress, quoted


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("train")(train)


def train(
    studies: Annotated[Path, typer.Argument(help="Folder that 'medfinder curate' wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder of the run; its checkpoint/ is the model.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Recipe as TOML, such as configs/tiny.toml; none for the defaults."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the recipe, such as train.lr=3e-4; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that was stopped in OUT.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps preprocessed volumes for other runs of this input."),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that read volumes; 0 for one a core.")
    ] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train a model that brings volumes and reports into one space.

    Example: medfinder train studies run --config configs/tiny.toml --set train.lr=3e-4

    The best checkpoint by R@10, both ways, on the patients of the split val is kept. A run that
    was stopped goes on with --resume, to the same result.
    """
    from medfinder.config import load_config
    from medfinder.train.recipe import RecipeConfig
    from medfinder.train.train import train as run

    recipe = load_config(RecipeConfig, config, set_ or ())
    with progress("Reading") as advance:
        made = run(
            studies,
            out,
            recipe,
            resume=resume,
            cache=cache,
            workers=workers,
            progress=lambda what, n, total: advance(n, total, what),
        )
    if not _speaks():
        return
    if json_:
        emit(
            {
                "folder": str(out),
                "checkpoint": str(made.checkpoint),
                "step": made.step,
                "measures": dict(made.measures),
                "train": made.n_train,
                "val": made.n_val,
                "rejections": made.n_rejections,
                "bad": made.n_bad,
                "duration_s": made.duration_s,
            }
        )
    left = f", {made.n_rejections} could not be read" if made.n_rejections else ""
    left += f", {made.n_bad} left out" if made.n_bad else ""
    score = made.measures["mean_success_at_10"]
    done(
        f"Trained on {made.n_train} studies{left}; best after step {made.step}: R@10 {score:.1%} "
        f"both ways among {made.n_val} studies. Checkpoint: {made.checkpoint}",
        f"medfinder index {quoted(studies)} idx --encoder {quoted(made.checkpoint)} "
        f"--text-encoder {quoted(made.checkpoint)}",
    )


def _speaks() -> bool:
    """Tell whether this is the process that speaks for all of a run's."""
    from torch import distributed

    started = distributed.is_available() and distributed.is_initialized()
    return not started or distributed.get_rank() == 0
