"""A checkpoint's model card: what it is, what it was trained on, how well it did, what it is not.

Written from what the checkpoint declares and from its ``training.json``; nothing is added that
neither says. In the Hub's format: front matter, then Markdown.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfinder.model.checkpoint import Checkpoint

TAGS = ("medical", "radiology", "computed-tomography", "3d", "retrieval", "medfinder")
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
            "cc-by-nc-sa-4.0", "cc0-1.0")  # fmt: skip
"""Those of the Hub's identifiers that weights of this field carry; another is "other" there."""
LIMITS = (
    "Research use only. It is not a medical device: it must not be used for diagnosis, triage or "
    "any decision about a patient.",
    "It ranks studies by likeness; a high rank is no finding, and a low one does not exclude one.",
    "It was judged on nothing but what the table above names. On scans of another scanner, "
    "protocol, population or body part its ranks are unknown: measure them on your own data first.",
)


def model_card(checkpoint: "Checkpoint", training: Mapping[str, Any] | None = None) -> str:
    """Return the card as Markdown.

    Args:
        checkpoint: What the checkpoint declares.
        training: What ``training.json`` says. Read, where there: ``data`` (text, or name ->
            value), ``recipe`` (text, or setting -> value, nested), ``measures`` (name -> number,
            nested by split or direction), ``limits`` (list of texts), ``languages`` (list of
            codes), ``seed``, ``duration_s``, ``commit``.
    """
    notes = dict(training or {})
    return "\n".join([*_front_matter(checkpoint, notes), *_body(checkpoint, notes)]) + "\n"


def _front_matter(checkpoint: "Checkpoint", notes: Mapping[str, Any]) -> Iterator[str]:
    licence = checkpoint.licence.lower()
    yield "---"
    if licence in LICENCES:
        yield f"license: {licence}"
    else:
        yield "license: other"
        yield f"license_name: {_quoted(checkpoint.licence)}"
    yield "library_name: medfinder"
    yield "pipeline_tag: feature-extraction"
    yield "tags:"
    yield from (f"- {tag}" for tag in TAGS)
    if notes.get("languages"):
        yield "language:"
        yield from (f"- {_quoted(language)}" for language in notes["languages"])
    yield "---"
    yield ""


def _body(checkpoint: "Checkpoint", notes: Mapping[str, Any]) -> Iterator[str]:
    model, preprocess = checkpoint.model, checkpoint.model["preprocess"]
    yield f"# {checkpoint.name}"
    yield ""
    yield (
        "A dual-stream model of MedFinder: a 3D CT and a text become vectors of "
        f"{checkpoint.dim} numbers in one space, in which a sentence, a report or "
        "another CT finds the studies that match."
    )
    yield ""
    yield "**Not a medical device. Research use only.**"
    yield from ("", "## Use", "", "```bash", "pip install medfinder")
    yield "medfinder index studies idx --encoder FOLDER_OR_HUB_ID"
    yield 'medfinder search idx "left pleural effusion"'
    yield from ("```", "", "## Trained on", "")
    yield from _told(notes.get("data") or checkpoint.source)
    yield from ("", "## Recipe", "")
    yield from _told(notes.get("recipe") or "Not recorded.")
    facts = {
        "seed": notes.get("seed"),
        "duration_s": notes.get("duration_s"),
        "commit": notes.get("commit"),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    if known:
        yield ""
        yield from _told(known)
    yield from ("", "## Measures", "")
    measures = list(_flat(notes.get("measures") or {}))
    if measures:
        yield from ("| measure | value |", "|---|---|")
        yield from (f"| {_cell(name)} | {_number(value)} |" for name, value in measures)
    else:
        yield "None recorded."
    yield from ("", "## Input", "")
    yield from _told(
        {
            "volume network": f"{model['volume']['name']}, {checkpoint.region_dim} features for each of "
            f"{' x '.join(map(str, checkpoint.n_regions))} regions (D, H, W)",
            "text network": f"{model['text']['name']}, at most {model['text']['max_tokens']} tokens",
            "parameters": f"{checkpoint.n_parameters:,}, {checkpoint.weights_dtype}",
            "voxels": _voxels(preprocess),
        }
    )
    yield from ("", "## Limits", "")
    yield from (f"- {limit}" for limit in (*notes.get("limits", ()), *LIMITS))
    yield from ("", f"Written by MedFinder {checkpoint.package_version}.")


def _voxels(preprocess: Mapping[str, Any]) -> str:
    size, spacing_mm = (preprocess[key] for key in ("size", "spacing_mm"))
    shape = " x ".join(map(str, size)) if size else "as many as there are"
    fine = " x ".join(f"{mm:g}" for mm in spacing_mm) + " mm" if spacing_mm else "any size"
    return (
        f"{shape}, of {fine} (D, H, W), framed by {preprocess['frame']}, scaled by "
        f"{preprocess['scaling']}"
    )


def _told(value: Any) -> Iterator[str]:
    """Yield a text as it is, and a mapping as a list of its settings."""
    if isinstance(value, Mapping):
        yield from (f"- {name}: {_cell(entry)}" for name, entry in _flat(value))
    else:
        yield str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _cell(value)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _quoted(text: str) -> str:
    """Return a YAML string: JSON's is one."""
    return json.dumps(str(text), ensure_ascii=False)
