"""``medfinder plan``: a number of studies → days, machines, disk and money."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.talk import emit, out, say

if TYPE_CHECKING:
    from rich.table import Table

    from medfinder.plan.costs import Costs
    from medfinder.plan.plan import Plan, Site

NOT_INCLUDED = (
    "the archive's own disks and network, copies of volumes, serving, translation of reports, "
    "machines that wait between stages or are hired by the full hour, and work that is done again"
)
TRAINING = (
    "reading and preprocessing each volume once more before training, on cores and from the "
    "archive, and the disk that keeps them"
)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("plan")(plan)


def plan(
    ctx: typer.Context,
    studies: Annotated[
        str, typer.Option("--studies", help="How many; 5_000_000 reads as 5000000.")
    ] = "1_000_000",
    mvoxels: Annotated[
        float, typer.Option(help="Million voxels of a study: 512 x 512 x 300 are 79.")
    ] = 79.0,
    stored_mb: Annotated[
        float, typer.Option(help="Megabytes of a study in the archive; 0 where nobody knows.")
    ] = 0.0,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    cores: Annotated[int, typer.Option(help="Of each machine.")] = 16,
    gpu: Annotated[str, typer.Option(help="Such as h100; '' for none.")] = "",
    gpus: Annotated[int, typer.Option(help="Of each machine; 1 where --gpu is given.")] = 0,
    days: Annotated[
        float | None,
        typer.Option(help="Say how many such machines do it in this many days, without --nodes."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of training on all studies; 0 for none.")] = 0,
    core_hour: Annotated[
        float | None,
        typer.Option(help="Price of a core for an hour; 0 where the GPU's price holds it."),
    ] = None,
    gpu_hour: Annotated[float | None, typer.Option(help="Price of a GPU for an hour.")] = None,
    tb_month: Annotated[
        float | None, typer.Option(help="Price of a terabyte on disk for a month.")
    ] = None,
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

    Money is for the machines hired, busy or not: give --core-hour, and --gpu-hour where they have GPUs.
    """
    from medfinder.errors import ConfigError
    from medfinder.plan.costs import check_target, load_costs, save_costs
    from medfinder.plan.plan import Site, nodes_for, out_of_reach
    from medfinder.plan.plan import plan as planned

    try:
        n = int(studies)
    except ValueError:
        raise ConfigError(
            f"--studies is {studies!r}; expected a number such as 5_000_000."
        ) from None
    if measure is None:
        for name in ("encoder", "text_encoder", "sample", "save"):
            if _given(ctx, name):
                option = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{option} belongs to --measure, which was not given. Add --measure STUDIES, a "
                    f"folder of 'medfinder curate', or leave {option} out."
                )
    if days is not None and _given(ctx, "nodes"):
        raise ConfigError("--days says how many machines it takes. Leave --nodes or --days out.")
    site = Site(
        nodes=nodes,
        cores=cores,
        gpus=gpus or (1 if gpu else 0),
        gpu=gpu,
        mvoxels=mvoxels,
        stored_mb=stored_mb,
        core_hour=core_hour,
        gpu_hour=gpu_hour,
        tb_month=tb_month,
        epochs=epochs,
    )
    figures = load_costs(costs)
    planned(n, figures, site)  # what cannot be is refused before anything is measured
    if days is not None:
        nodes_for(n, days, figures, site)
    if measure is not None:
        from medfinder.plan.measure import measure_study

        if save is not None:
            check_target(save)
        study = measure_study(
            measure,
            None if encoder == "none" else encoder,
            None if text_encoder == "none" else text_encoder,
            sample,
        )
        machine = f"studies measured here, finishing on {figures.machine}"
        figures = dataclasses.replace(figures, study=study, machine=machine)
        if save is not None:
            save_costs(figures, save)
            say(f"Costs written to {save}: give them to 'medfinder plan --costs {save}'.")
    why = ""
    if days is not None:
        wanted = nodes_for(n, days, figures, site)
        if wanted is None:
            why = out_of_reach(n, days, figures, site)
        site = dataclasses.replace(site, nodes=wanted or site.nodes)
    made = planned(n, figures, site)
    if json_:
        emit(_json(made, site, figures, days, why))
    else:
        _print(made, site, figures, days if not why else None)
    if why:
        say(f"{why} The plan is for {_machines(site)}.")
    if json_:
        return
    say(
        f"Costs: {figures.machine}; {figures.study.encoder}, {figures.study.n} studies of "
        f"{figures.study.mvoxels:.3g} million voxels measured."
    )
    say("docs/explanation/scale.md says how they were measured and where this stops holding.")


def _given(ctx: typer.Context, name: str) -> bool:
    """Return whether an option was typed."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _machines(site: "Site") -> str:
    gpus = f" and {site.gpus} {site.gpu}" if site.gpus else ""
    one = f"{site.cores} core{'' if site.cores == 1 else 's'}{gpus}"
    return f"1 machine of {one}" if site.nodes == 1 else f"{site.nodes:,} machines, each of {one}"


def _hired(site: "Site") -> str:
    """Return for what machines are paid."""
    gpus = " with its GPUs," if site.gpus else ""
    back = " one finishes the index, the others given back meanwhile;" if site.nodes > 1 else ""
    return (
        f"each machine whole, busy or not,{gpus} for the time of the stages it is there for;{back} "
        "paid to the second"
    )


def _not_included(site: "Site") -> str:
    return f"{NOT_INCLUDED}; {TRAINING}" if site.epochs else NOT_INCLUDED


def _json(
    made: "Plan", site: "Site", figures: "Costs", days: float | None, why: str
) -> dict[str, Any]:
    """Return the plan, what was asked, and sums of what is hired."""
    from medfinder.plan.plan import DAY_S, HOUR_S

    plain = dataclasses.asdict(made)
    for told, stage in zip(plain["stages"], made.stages, strict=True):
        told["hired_s"] = stage.hired_s
        told["read_mb_s"] = stage.read_mb_s
    hours = made.hired_s / HOUR_S
    return plain | {
        "nodes": site.nodes,
        "days": made.duration_s / DAY_S,
        "days_asked": days,
        "reachable": None if days is None else not why,
        "why": why,
        "hired": {
            "machine_hours": hours,
            "core_hours": hours * site.cores,
            "gpu_hours": hours * site.gpus,
            "machine_hour_price": site.machine_hour,
            "means": _hired(site),
        },
        "busy": {"core_hours": made.cpu_s / HOUR_S, "gpu_hours": made.gpu_s / HOUR_S},
        "not_included": _not_included(site),
        "site": dataclasses.asdict(site),
        "costs": {
            "machine": figures.machine,
            "encoder": figures.study.encoder,
            "n": figures.study.n,
            "mvoxels": figures.study.mvoxels,
            "assumed": figures.gpus[site.gpu].assumed if site.gpu else "",
        },
    }


def _print(made: "Plan", site: "Site", figures: "Costs", days: float | None) -> None:
    from medfinder.plan.words import memory_words, size_words, time_words

    asked = f", of {days:g} days asked for" if days is not None else ""
    lines = [
        f"{made.n:,} {'study' if made.n == 1 else 'studies'} of {site.mvoxels:g} million voxels on "
        f"{_machines(site)}: {time_words(made.duration_s)}{asked}"
    ]
    _say_all(lines)
    out.print(_table(made, site))
    lines = [f"Hired: {_hired(site)}. Busy: what of it is at work"]
    lines += _money(made, site)
    lines.append(
        f"Disk: {size_words(made.disk_bytes)} of curated studies and index; the archive's own "
        "volumes are not in it"
    )
    lines.append(
        f"Memory: {memory_words(site.cores * made.worker_mib * 2**20)} a machine ({site.cores} x "
        f"{memory_words(made.worker_mib * 2**20)}, a worker a core), "
        f"{memory_words(made.finish_mib * 2**20)} on the one that finishes the index, "
        f"{memory_words(made.serve_mib * 2**20)} on each that serves it"
    )
    read = [stage for stage in made.stages if stage.read_bytes]
    if read:
        each = ", and again to ".join(
            f"{stage.stage}, at {stage.read_mb_s:,.0f} MB a second"
            if stage.read_mb_s >= 100
            else f"{stage.stage}, at {stage.read_mb_s:.2g} MB a second"
            for stage in read
        )
        lines.append(f"Archive: {size_words(read[0].read_bytes)} read to {each}")
    lines.append(f"Not included: {_not_included(site)}")
    if site.gpu and figures.gpus[site.gpu].assumed:
        lines.append(f"Assumed: {figures.gpus[site.gpu].assumed}")
    _say_all(lines)


def _say_all(lines: list[str]) -> None:
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _table(made: "Plan", site: "Site") -> "Table":
    """Return what each stage takes; columns of GPUs and money where there are any."""
    from rich.box import SIMPLE
    from rich.table import Table

    from medfinder.plan.plan import HOUR_S
    from medfinder.plan.words import amount, money_words, time_words

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_footer=True)
    price = site.machine_hour
    table.add_column("stage", "total")
    table.add_column("time", time_words(made.duration_s))
    table.add_column("machines")
    table.add_column("bound by")
    hours = made.hired_s / HOUR_S

    def two(hired: float, busy_s: float) -> str:
        return f"{amount(hired)} / {amount(busy_s / HOUR_S)}"

    table.add_column("core-hours\nhired / busy", two(hours * site.cores, made.cpu_s))
    if site.gpus:
        table.add_column("GPU-hours\nhired / busy", two(hours * site.gpus, made.gpu_s))
    if price is not None:
        table.add_column("money", money_words(hours * price), justify="right")
    for stage in made.stages:
        hours = stage.hired_s / HOUR_S
        cells = [
            stage.stage,
            time_words(stage.duration_s),
            f"{stage.nodes:,}",
            {"one node": "1 machine", "gpus": "GPUs"}.get(stage.bound, stage.bound),
            two(hours * site.cores, stage.cpu_s),
        ]
        if site.gpus:
            cells.append(two(hours * site.gpus, stage.gpu_s))
        if price is not None:
            cells.append(money_words(hours * price))
        table.add_row(*cells)
    return table


def _money(made: "Plan", site: "Site") -> list[str]:
    """Return what it costs, or which price is missing."""
    from medfinder.plan.plan import HOUR_S
    from medfinder.plan.words import amount, money_words

    lines = []
    if made.money is not None and site.machine_hour is not None:
        gpus = f" + {site.gpus} {site.gpu} x {site.gpu_hour:g}" if site.gpus else ""
        price = site.machine_hour
        lines.append(
            f"Money: {money_words(made.money)} for {amount(made.hired_s / HOUR_S)} machine-hours "
            f"hired, at {price:{',.2f' if price >= 0.1 else 'g'}} an hour ({site.cores} cores x "
            f"{site.core_hour:g}{gpus})"
        )
    else:
        missing = ["--core-hour"] if site.core_hour is None else []
        missing += ["--gpu-hour"] if site.gpus and site.gpu_hour is None else []
        lines.append(f"Money for machines: not known without {' and '.join(missing)}")
    if made.money_a_month is not None:
        lines.append(f"Money for the disk: {money_words(made.money_a_month)} a month")
    else:
        lines.append("Money for the disk: not known without --tb-month")
    if site.gpu_hour is not None and not site.gpus:
        lines.append("--gpu-hour counts for nothing: the machines have no GPU, see --gpu")
    return lines
