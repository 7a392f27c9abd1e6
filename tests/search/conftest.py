from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.volume.nifti import write_nifti
from stubs.cases import CASES, block
from stubs.encoders import GridEncoder, WordEncoder


@pytest.fixture(scope="session")
def make_studies() -> Callable[[Path, Sequence[str]], Path]:
    """Return a function that writes and curates some of `CASES` below a folder."""

    def make(folder: Path, ids: Sequence[str]) -> Path:
        raw = folder / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        lines = ["file,patient_id,study_id,sex,age,text"]
        for number, study_id in enumerate(CASES):
            if study_id not in ids:
                continue
            patient, side, sex, age, text = CASES[study_id]
            if not (raw / f"{study_id}.nii.gz").exists():
                write_nifti(block(number, side), raw / f"{study_id}.nii.gz")
            lines.append(f'{study_id}.nii.gz,{patient},{study_id},{sex},{age},"{text}"')
        (raw / "table.csv").write_text("\n".join(lines) + "\n")
        for old in raw.glob("*.nii.gz"):
            if old.name.removesuffix(".nii.gz") not in ids:
                old.unlink()
        # Blocks differ by noise only, and are studies of their own all the same.
        config = CurateConfig(workers=1, near_duplicates=False)
        curate(FolderSource(raw, raw / "table.csv"), folder / "studies", config)
        return folder / "studies"

    return make


@pytest.fixture(scope="session")
def studies(
    tmp_path_factory: pytest.TempPathFactory, make_studies: Callable[[Path, Sequence[str]], Path]
) -> Path:
    return make_studies(tmp_path_factory.mktemp("search"), list(CASES))


def finder_over(studies: Path, out: Path, joint: bool = False) -> Finder:
    embedders = {"volume": Embedder(GridEncoder(joint)), "report": Embedder(WordEncoder())}
    build_index(studies, out, embedders["volume"], embedders["report"])
    return Finder(open_index(out).index, embedders)


@pytest.fixture(scope="session")
def finder(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Finder:
    return finder_over(studies, tmp_path_factory.mktemp("index") / "idx")


@pytest.fixture(scope="session")
def joint_finder(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Finder:
    return finder_over(studies, tmp_path_factory.mktemp("joint") / "idx", joint=True)
