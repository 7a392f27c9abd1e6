"""The page of the worst queries: who is on it, what is shown of them, and when there is none."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest

from benchmark.five import FIVE, five_entrant, five_studies
from medfinder.benchmark.benchmark import BenchmarkConfig, run_benchmark
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.worst import WORST, middle, missed, png, to_html
from medfinder.volume.nifti import read_nifti, write_nifti
from medfinder.volume.volume import Volume

FAST = BenchmarkConfig(n_draws=100, depth=0)
PLACE = ("deduplicated", "report_to_volume", "MnR")


def volume(number: int) -> Volume:
    hu = np.full((9, 12, 10), -1000, np.int16)
    hu[:, 8:, :3] = 40 + 10 * number  # anterior, on the patient's left
    return Volume(hu, np.diag([2.0, 2.0, 5.0, 1.0]))


@pytest.fixture
def five(tmp_path: Path) -> Reference:
    """The five studies with volumes of their own."""
    studies = []
    for number, study in enumerate(five_studies().studies):
        path = tmp_path / f"{study.study_id}.nii.gz"
        write_nifti(volume(number), path)
        kept = read_nifti(path)
        studies.append(
            dataclasses.replace(study, volume_path=str(path), volume_hash=kept.content_hash)
        )
    return Reference(tuple(studies), check=dataclasses.replace(five_studies().check, min_slices=2))


def scores(**places: float) -> dict[tuple[str, str, str], tuple[list[str], list[str], list[float]]]:
    return {PLACE: (list(places), ["p"] * len(places), list(places.values()))}


def test_the_worst_stand_first_with_their_own_ct_and_the_first_three_found() -> None:
    found = missed(
        five_entrant(),
        five_studies(),
        scores(valid_2_a_1=1.0, valid_3_a_1=2.0, valid_4_a_1=4.0),
    )
    assert [one.own.study_id for one in found] == ["valid_4_a_1", "valid_3_a_1"]
    # The text at 60 degrees: volumes at 70, 42 and, of the distinct texts' studies, 0.
    assert [one.study_id for one in found[1].found] == ["valid_3_a_1", "valid_2_a_1", "valid_1_a_1"]
    assert found[1].text == FIVE["valid_3_a_1"][1]
    assert found[1].n_gallery == 4


def test_no_more_are_shown_than_asked_for() -> None:
    some = scores(valid_2_a_1=2.0, valid_3_a_1=2.0, valid_4_a_1=2.0)
    found = missed(five_entrant(), five_studies(), some, 2)
    assert [one.own.study_id for one in found] == ["valid_2_a_1", "valid_3_a_1"]


def test_a_slice_is_seen_as_a_radiologist_sees_it() -> None:
    pixels = middle(volume(0))
    assert pixels.shape == (12, 10)
    lit = np.argwhere(pixels > 0)
    assert lit[:, 0].max() <= 3, "anterior is up"
    assert lit[:, 1].min() >= 7, "the patient's left is on the right"
    assert pixels.max() == round((40 + 1000) / 1300 * 255)


def test_a_large_slice_is_averaged() -> None:
    hu = np.zeros((3, 500, 330), np.int16)
    hu[:, ::2] = -1000
    pixels = middle(Volume(hu, np.eye(4)))
    assert pixels.shape == (125, 83)
    assert np.all(pixels == round(500 / 1300 * 255))


def test_a_png_is_read_back_by_another_reader() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_page_is_written_beside_the_report_which_stays_without_texts(
    five: Reference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    entrant = five_entrant()
    # Two volumes change places, so that two reports miss theirs.
    ids = list(entrant.sides["volume"].ids)
    ids[2], ids[4] = ids[4], ids[2]
    sides = dict(entrant.sides)
    sides["volume"] = dataclasses.replace(sides["volume"], ids=tuple(ids))
    run_benchmark(dataclasses.replace(entrant, sides=sides), five, out, ["deduplicated"], FAST)
    text = (out / WORST).read_text("utf-8")
    assert "Right pleural effusion. Consolidation in the right lower lobe." in text
    assert text.count("data:image/png;base64,") >= 8
    assert "http" not in text
    assert "handle it like the data" in text
    assert "Right pleural effusion" not in (out / "report.html").read_text("utf-8")
    assert "effusion" not in caplog.text


def test_without_volumes_there_is_no_page(tmp_path: Path) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path, ["deduplicated"], FAST)
    assert (tmp_path / "report.html").is_file()
    assert not (tmp_path / WORST).exists()


def test_a_volume_that_cannot_be_read_is_named_by_its_rule(five: Reference) -> None:
    gone = [
        dataclasses.replace(study, volume_hash="other")
        if study.study_id == "valid_3_a_1"
        else study
        for study in five.studies
    ]
    found = missed(
        five_entrant(), dataclasses.replace(five, studies=tuple(gone)), scores(valid_3_a_1=2.0)
    )
    assert found[0].own.why_not == "changed-volume"
    page = to_html("circle", found)
    assert "No slice: changed-volume" in page
    assert page.count("data:image/png") == 2


def test_what_comes_from_data_cannot_be_markup(five: Reference) -> None:
    (found,) = missed(five_entrant(), five, scores(valid_3_a_1=2.0))
    evil = "<script>alert(1)</script>"
    own = dataclasses.replace(found.own, study_id=evil)
    assert "<script>" not in to_html(evil, [dataclasses.replace(found, text=evil, own=own)])
