"""``medfinder encode``: one CT → one vector."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("encode")(encode)


def encode(
    volume: Annotated[Path, typer.Argument(help="A CT: NIfTI file, DICOM file or folder.")],
    encoder: Annotated[str, typer.Option(help="See 'medfinder list encoders'.")] = "astra",
    out: Annotated[
        Path | None, typer.Option(help="NumPy file to write; JSON on stdout otherwise.")
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="NumPy file for the region features, float16.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Series, where a folder holds several.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="With --out: print the summary as JSON.")
    ] = False,
) -> None:
    """Embed one CT: an L2-normalised float32 vector.

    Example: medfinder encode some_ct.nii.gz --encoder astra --out v.npy
    """
    import numpy as np

    from medfinder.artifact import atomic_write
    from medfinder.embed import Embedder
    from medfinder.volume.read import read_volume

    embedder = Embedder(encoder)
    ct = read_volume(volume, series_id=series)
    vector = embedder.embed_volume(ct)
    if regions is not None:
        with atomic_write(regions) as file:
            np.save(file, embedder.region_features(ct))
    if out is None:
        emit({"model_id": embedder.model_id, "vector": [float(x) for x in vector]})
        return
    with atomic_write(out) as file:
        np.save(file, vector)
    if json_:
        emit({"file": str(out), "model_id": embedder.model_id, "dim": int(vector.shape[0])})
    done(
        f"{out}: {vector.shape[0]} numbers of {embedder.model_id}",
        f"python -c \"import numpy; print(numpy.load('{out}').shape)\"",
    )
