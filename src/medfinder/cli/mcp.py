"""``medfinder mcp``: an index or a service → tools for language models' agents."""

import os
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("mcp")(mcp)


def mcp(
    index: Annotated[
        str, typer.Argument(help="Folder of an index, or the address of a MedFinder service.")
    ],
    transport: Annotated[
        Literal["stdio", "streamable-http"],
        typer.Option(help="stdio for a program that starts this one; streamable-http for others."),
    ] = "stdio",
    port: Annotated[int, typer.Option(help="Of streamable-http, on this machine alone.")] = 8001,
) -> None:
    """Let language models' agents search, read-only: search, get_study, similar.

    Example: medfinder mcp idx

    Example: MEDFINDER_TOKEN=mf_... medfinder mcp https://ct.example
    """
    from medfinder.search.finder import open_index
    from medfinder.serve.client import Client
    from medfinder.serve.mcp import OfIndex, OfService, make_server

    if index.startswith(("http://", "https://")):
        server = make_server(OfService(Client(index, os.environ.get("MEDFINDER_TOKEN"))))
    else:
        server = make_server(OfIndex(open_index(index)))
    if transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)
