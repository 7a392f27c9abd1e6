"""``medfinder encode``: one CT or text → one vector."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.talk import done, emit
from medfinder.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("encode")(encode)


def encode(
    volume: Annotated[
        Path | None, typer.Argument(help="A CT: NIfTI file, DICOM file or folder.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A text instead of a CT, for an encoder that reads text.")
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="A name of 'medfinder list encoders', a checkpoint's folder, or its id on the Hub."
        ),
    ] = "astra",
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
    """Embed one CT, or one text: an L2-normalised float32 vector.

    Examples: medfinder encode some_ct.nii.gz --encoder astra --out v.npy ·
    medfinder encode --text "left pleural effusion" --encoder run/checkpoint
    """
    if (volume is None) == (text is None):
        raise InputError("Give either a CT or --text, one of them.")
    if volume is None and regions is not None:
        raise InputError("A text has no region features: give --regions with a CT.")
    import numpy as np

    from medfinder.artifact import atomic_write
    from medfinder.embed import Embedder
    from medfinder.volume.read import read_volume

    embedder = Embedder(encoder)
    if volume is not None:
        ct = read_volume(volume, series_id=series)
        vector = embedder.embed_volume(ct)
        if regions is not None:
            with atomic_write(regions) as file:
                np.save(file, embedder.region_features(ct))
    else:
        vector = embedder.embed_texts([text or ""], ["--text"]).vectors[0]
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
