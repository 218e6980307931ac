"""Options of the commands whose work can be done on Ray, and the `Engine` they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vlm_probe.running.scheduling import Engine

EngineName = Annotated[
    str, typer.Option("--engine", help="local, or ray: actors that each open the models, on this machine or a cluster.")
]
Address = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster: auto, host:port, ray://...; one is started if not given.")
]
Actors = Annotated[
    int | None, typer.Option(help="Actors of Ray, each with a model in memory; as many as GPUs (or processors) serve.")
]
Gpus = Annotated[
    float | None, typer.Option(help="GPUs an actor, which may be a fraction; 1 if not given and the cluster has any.")
]


def engine_of(
    name: str, address: str | None, actors: int | None, gpus: float | None, device: str | None = None
) -> Engine:
    """What the options come to. VlmProbeError as of `Engine`, and where Ray is not installed."""
    from vlm_probe.running.scheduling import Engine, check_engine

    if name == "ray" and gpus is None and device == "cpu":
        gpus = 0
    engine = Engine(name, address=address, actors=actors, gpus=gpus)
    check_engine(engine)
    return engine
