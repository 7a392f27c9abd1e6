"""Find the 3D CT studies that match a sentence, a keyword, a report or another CT.

The names below are loaded on first use, so that importing the package costs nothing::

    import medfinder

    finder = medfinder.open_index("idx")
    finder.search("lung mass in a patient with cancer", k=5)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Client": "medfinder.serve.client",
    "Embedder": "medfinder.embed",
    "Finder": "medfinder.search.finder",
    "Finding": "medfinder.records",
    "Hit": "medfinder.records",
    "MedFinderError": "medfinder.errors",
    "Report": "medfinder.records",
    "Study": "medfinder.records",
    "Volume": "medfinder.volume.volume",
    "build_index": "medfinder.search.build",
    "extract_findings": "medfinder.report.findings",
    "from_pretrained": "medfinder.model.hub",
    "list_encoders": "medfinder.model.encoder",
    "open_index": "medfinder.search.finder",
    "parse_report": "medfinder.report.parse",
    "preprocess": "medfinder.volume.preprocess",
    "push_to_hub": "medfinder.model.hub",
    "read_volume": "medfinder.volume.read",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from medfinder.embed import Embedder as Embedder
    from medfinder.errors import MedFinderError as MedFinderError
    from medfinder.model.encoder import list_encoders as list_encoders
    from medfinder.model.hub import from_pretrained as from_pretrained
    from medfinder.model.hub import push_to_hub as push_to_hub
    from medfinder.records import Finding as Finding
    from medfinder.records import Hit as Hit
    from medfinder.records import Report as Report
    from medfinder.records import Study as Study
    from medfinder.report.findings import extract_findings as extract_findings
    from medfinder.report.parse import parse_report as parse_report
    from medfinder.search.build import build_index as build_index
    from medfinder.search.finder import Finder as Finder
    from medfinder.search.finder import open_index as open_index
    from medfinder.serve.client import Client as Client
    from medfinder.volume.preprocess import preprocess as preprocess
    from medfinder.volume.read import read_volume as read_volume
    from medfinder.volume.volume import Volume as Volume


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medfinder' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
