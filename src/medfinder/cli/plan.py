"""``medfinder plan``: a number of studies → days, machines, disk and money."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.talk import emit, err, out, say

if TYPE_CHECKING:
    from medfinder.plan.plan import Plan, Site


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("plan")(plan)


def plan(
    studies: Annotated[
        str, typer.Option("--studies", help="How many; 5_000_000 reads as 5000000.")
    ] = "1_000_000",
    mvoxels: Annotated[
        float, typer.Option(help="Million voxels of a study: 512 x 512 x 300 are 79.")
    ] = 79.0,
    stored_mb: Annotated[float, typer.Option(help="Megabytes of a study in the archive.")] = 0.0,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    cores: Annotated[int, typer.Option(help="Of each machine.")] = 16,
    gpu: Annotated[str, typer.Option(help="Such as h100; '' for none.")] = "",
    gpus: Annotated[int, typer.Option(help="Of each machine; 1 where --gpu is given.")] = 0,
    days: Annotated[
        float, typer.Option(help="Say how many such machines do it in this many days.")
    ] = 0.0,
    epochs: Annotated[int, typer.Option(help="Of training on all studies; 0 for none.")] = 0,
    core_hour: Annotated[float, typer.Option(help="Price of a core for an hour.")] = -1.0,
    gpu_hour: Annotated[float, typer.Option(help="Price of a GPU for an hour.")] = -1.0,
    tb_month: Annotated[float, typer.Option(help="Price of a terabyte for a month.")] = -1.0,
    costs: Annotated[
        Path | None, typer.Option(help="Measured costs; those that ship where left out.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(help="Measure the costs of a study here, on a folder of 'medfinder curate'."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="With --measure: volume encoder.")] = "medfinder",
    text_encoder: Annotated[
        str, typer.Option(help="With --measure: encoder of the reports, or 'none'.")
    ] = "minilm",
    sample: Annotated[int, typer.Option(help="With --measure: studies measured.")] = 24,
    save: Annotated[
        Path | None, typer.Option(help="With --measure: write the costs here, for --costs.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what an archive will take: days, machines, disk, memory and money.

    Examples: medfinder plan --studies 5_000_000 --gpu h100 --cores 32 --days 7,
    medfinder plan --studies 40_000 --measure studies --encoder astra
    """
    from medfinder.errors import ConfigError
    from medfinder.plan.costs import load_costs, save_costs
    from medfinder.plan.plan import DAY_S, Site, nodes_for
    from medfinder.plan.plan import plan as planned

    try:
        n = int(studies)
    except ValueError:
        raise ConfigError(
            f"--studies is {studies!r}; expected a number such as 5_000_000."
        ) from None
    figures = load_costs(costs)
    if measure is not None:
        from medfinder.plan.measure import measure_study

        study = measure_study(
            measure,
            None if encoder == "none" else encoder,
            None if text_encoder == "none" else text_encoder,
            sample,
        )
        figures = dataclasses.replace(figures, study=study, machine="measured here")
        if save is not None:
            save_costs(figures, save)
    site = Site(
        nodes=nodes,
        cores=cores,
        gpus=gpus or (1 if gpu else 0),
        gpu=gpu,
        mvoxels=mvoxels,
        stored_mb=stored_mb,
        core_hour=None if core_hour < 0 else core_hour,
        gpu_hour=None if gpu_hour < 0 else gpu_hour,
        tb_month=None if tb_month < 0 else tb_month,
        epochs=epochs,
    )
    wanted = None
    if days:
        wanted = nodes_for(n, days, figures, site)
        site = dataclasses.replace(site, nodes=wanted or site.nodes)
    made = planned(n, figures, site)
    if json_:
        emit(dataclasses.asdict(made) | {"nodes": site.nodes, "days": made.duration_s / DAY_S})
        return
    _print(made, site, figures.gpus[gpu].assumed if gpu else "")
    if days and wanted is None:
        say(
            f"No number of such machines does it in {days:g} days: finishing the index is done by "
            "one. Give more days, or make an index a source."
        )
    say(f"Costs: {figures.machine}; {figures.study.encoder}, {figures.study.n} studies measured.")
    err.print("docs/explanation/scale.md says how they were measured and where this stops holding.")


def _print(made: "Plan", site: "Site", assumed: str) -> None:
    from rich.table import Table

    from medfinder.plan.plan import DAY_S

    table = Table("stage", "core-hours", "GPU-hours", "days", "bound by")
    for stage in made.stages:
        table.add_row(
            stage.stage,
            f"{stage.cpu_s / 3600:,.1f}",
            f"{stage.gpu_s / 3600:,.1f}" if stage.gpu_s else "",
            f"{stage.duration_s / DAY_S:,.2f}",
            stage.bound,
        )
    out.print(table)
    gpus = f", {site.gpus} {site.gpu} each" if site.gpus else ""
    lines = [
        f"{made.n:,} studies on {site.nodes:,} machine(s) of {site.cores} cores{gpus}: "
        f"{made.duration_s / DAY_S:,.2f} days",
        f"disk {made.disk_bytes / 1e9:,.1f} GB, memory {made.worker_mib / 1024:,.1f} GiB a worker, "
        f"{made.finish_mib / 1024:,.1f} GiB to finish the index, {made.serve_mib / 1024:,.1f} GiB "
        "to serve it",
    ]
    if made.read_bytes:
        rate = made.read_bytes / 1e6 / made.duration_s
        lines.append(
            f"{made.read_bytes / 1e12:,.1f} TB read from the archive, {rate:,.0f} MB a second"
        )
    if made.money is not None:
        lines.append(f"cores and GPUs {made.money:,.0f}")
    if made.money_a_month is not None:
        lines.append(f"disk {made.money_a_month:,.0f} a month")
    if assumed:
        lines.append(f"Assumed: {assumed}")
    for line in lines:
        out.print(line, soft_wrap=True)
