from pathlib import Path

import pytest

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.search.build import build_index
from medfinder.volume.nifti import write_nifti
from stubs.cases import CASES, block
from stubs.encoders import GridEncoder, WordEncoder
from stubs.indexes import Contents, contents


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of nine curated studies."""
    folder = tmp_path_factory.mktemp("scale")
    raw = folder / "raw"
    raw.mkdir()
    lines = ["file,patient_id,study_id,sex,age,text"]
    for number, (study_id, (patient, side, sex, age, text)) in enumerate(CASES.items()):
        write_nifti(block(number, side), raw / f"{study_id}.nii.gz")
        lines.append(f'{study_id}.nii.gz,{patient},{study_id},{sex},{age},"{text}"')
    (raw / "table.csv").write_text("\n".join(lines) + "\n")
    config = CurateConfig(workers=1, near_duplicates=False)
    curate(FolderSource(raw, raw / "table.csv"), folder / "studies", config)
    return folder / "studies"


@pytest.fixture(scope="session")
def alone(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The index that one process makes of them."""
    out = tmp_path_factory.mktemp("alone") / "idx"
    build_index(studies, out, Embedder(GridEncoder()), Embedder(WordEncoder()), keep_regions=True)
    return contents(out)
