"""``medfinder list``: what may be named."""

from typing import Annotated

import typer

from medfinder.cli.talk import emit, out


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    names = typer.Typer(
        help="List what may be named: encoders, findings, perturbations, protocols.",
        no_args_is_help=True,
    )
    names.command("encoders")(encoders)
    names.command("findings")(findings)
    names.command("perturbations")(perturbations)
    names.command("protocols")(protocols)
    app.add_typer(names, name="list")


def encoders(json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the encoders: streams, dimension, licence, and what each needs."""
    from medfinder.model.encoder import list_encoders

    infos = list_encoders()
    if json_:
        emit(
            [
                {
                    "name": i.name,
                    "streams": sorted(i.streams),
                    "dim": i.dim,
                    "model_id": i.model_id,
                    "licence": i.licence,
                    "source": i.source,
                    "needs": i.needs,
                }
                for i in infos
            ]
        )
        return
    for i in infos:
        streams = "+".join(sorted(i.streams, reverse=True))
        out.print(
            f"{i.name:<12} {streams:<12} {i.dim:>5}  {i.licence:<12} {i.needs}",
            markup=False,
            soft_wrap=True,
        )


def findings(json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the findings that 'medfinder search --keyword' knows."""
    from medfinder.report.vocabulary import vocabulary

    names = vocabulary().names()
    if json_:
        emit(names)
        return
    for name in names:
        out.print(name, markup=False)


def perturbations(
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List what 'medfinder benchmark --perturb' can do to volumes and texts."""
    from medfinder.benchmark.robustness import perturbations as known

    found = [known.get(name) for name in known]
    if json_:
        emit([{"name": p.name, "acts_on": p.acts_on, "says": p.says} for p in found])
        return
    for p in found:
        out.print(f"{p.name:<20} {p.acts_on:<7} {p.says}", markup=False, soft_wrap=True)


def protocols(
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the protocols that 'medfinder benchmark' knows: version, ways, and what each asks."""
    from medfinder.benchmark.protocols import protocols as known

    found = [known.get(name) for name in known]
    if json_:
        emit(
            [
                {
                    "name": p.name,
                    "version": p.version,
                    "ways": list(p.ways),
                    "asks": p.asks,
                    "relevance": p.relevance,
                    "ties": p.tie_rule,
                    "primary": list(p.primary),
                    "known": p.known,
                    "assumed": p.assumed,
                }
                for p in found
            ]
        )
        return
    for p in found:
        out.print(f"{p.name:<20} v{p.version}  {p.asks}", markup=False, soft_wrap=True)
