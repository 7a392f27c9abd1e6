"""Functions in processes of their own, connected as torchrun connects them.

A server process imports torch once and forks, so that a process costs a fraction of a second. What
the processes run stands here too, where they find it by name.
"""

import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from medfinder.train.dataset import TrainingSet
from medfinder.train.recipe import RecipeConfig

HUNG = "hung"
TIMEOUT_S = 300.0  # a hang is told from a slow machine

_context = get_context("forkserver")
_context.set_forkserver_preload(["medfinder.train.loop", "lightning_fabric"])


def run(
    function: Callable[..., Any], folder: Path, *arguments: Any, n: int = 2
) -> tuple[list[Any], list[int | str | None]]:
    """Call ``function(rank, n, *arguments)`` in `n` processes.

    Returns:
        What each returned, None where it did not; and how each ended: its exit code, or `HUNG`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        _context.Process(target=_call, args=(rank, n, port, folder, function, arguments))
        for rank in range(n)
    ]
    for process in started:
        process.start()
    ends = [_end(process) for process in started]
    files = [folder / f"returned-{rank}.pt" for rank in range(n)]
    returned = [torch.load(f, weights_only=False) if f.is_file() else None for f in files]
    return returned, ends


def _end(process: BaseProcess) -> int | str | None:
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        return HUNG
    return process.exitcode


def _call(
    rank: int,
    n: int,
    port: int,
    folder: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    if n > 1:  # what torchrun tells its processes
        os.environ.update(
            TORCHELASTIC_RUN_ID="test",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
            WORLD_SIZE=str(n),
            LOCAL_WORLD_SIZE=str(n),
            GROUP_WORLD_SIZE="1",
        )
    torch.save(function(rank, n, *arguments), folder / f"returned-{rank}.pt")


def connect(n: int) -> None:
    """Join the group without Fabric."""
    if n > 1:
        torch.distributed.init_process_group("gloo")


# -- what processes run --------------------------------------------------------------


def similarity_of_a_part(rank: int, n: int) -> dict[str, Any]:
    """Compute L_sim of six pairs, of which this process holds a part, and its rows' gradients."""
    from medfinder.model import losses

    connect(n)
    generator = torch.Generator().manual_seed(3)
    texts, volumes = torch.randn(2, 6, 4, generator=generator)
    size = 6 // n
    mine = slice(rank * size, rank * size + size)
    t, v = texts[mine].clone().requires_grad_(), volumes[mine].clone().requires_grad_()
    every = losses.gathered(t)
    loss = losses.info_nce(every, losses.gathered(v), 3.0)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": float(loss.detach()),
        "rows": every.detach(),
        "texts": t.grad,
        "volumes": v.grad,
    }


def gradients_of_a_part(
    rank: int, n: int, data: TrainingSet, similarity: str, micro_batch: int
) -> dict[str, Any]:
    """Compute the gradients of a batch of eight studies, of which this process holds a part."""
    from medfinder.train.gradients import average, backward
    from medfinder.train.objective import Objective, ObjectiveConfig
    from stubs.training import batches, stream, without_batch_norm

    connect(n)
    model = stream(data=data)
    without_batch_norm(model)
    config = ObjectiveConfig(
        similarity=similarity,  # type: ignore[arg-type]
        view_mse=2.0,
        statements=0.0,
        attribute_choice=0.0,
    )
    objective = Objective(config)
    made = batches(
        data,
        size=8,
        needs_report=False,
        n_told=0,
        n_denied=0,
        rank=rank,
        n_ranks=n,
    )
    terms = backward(objective, model, made.batch(0), micro_batch)
    named = {**dict(model.named_parameters()), **dict(objective.named_parameters())}
    used = {k: p for k, p in named.items() if p.grad is not None}
    average(list(used.values()))
    return {
        "similarity": float(terms.named["similarity"].detach()),
        "gradients": {k: p.grad for k, p in used.items()},
    }


def fit_a_part(
    rank: int,
    n: int,
    sets: tuple[TrainingSet, TrainingSet],
    out: Path,
    recipe: RecipeConfig,
    dies: int | None = None,
    at: int = 0,
) -> dict[str, Any]:
    """Train; where `dies` is this rank, be killed after step `at`."""
    import stubs.networks  # noqa: F401  (registers "plain")
    from medfinder.errors import MedFinderError
    from medfinder.train.loop import fit

    def progress(step: int, steps: int) -> None:
        if step == at and rank == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        fitted = fit(recipe, *sets, out, progress=progress)
    except MedFinderError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {
        "n_bad": fitted.n_bad,
        "n_steps": fitted.n_steps,
        "measures": dict(fitted.measures),
        "weights": fitted.model.state_dict(),
    }
