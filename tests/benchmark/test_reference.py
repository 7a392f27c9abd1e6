"""What is known of the studies: read from a table or a folder, each fault with its name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.five import FIVE, five_studies, study
from medfinder.benchmark.reference import (
    LOBES,
    Reference,
    asked_for,
    lobe_of,
    read_reference,
    side_of,
)
from medfinder.errors import Incomplete, InputError
from medfinder.report.vocabulary import LABELS, vocabulary
from stubs.curated import phantom_studies, write_curated

HEAD = "study_id,patient_id,report,findings,split\n"


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_of_reports_is_read_with_its_findings(tmp_path: Path) -> None:
    lines = [f'{name},{patient},"{text}"' for name, (patient, text, _, _) in FIVE.items()]
    path = table(tmp_path / "t.csv", "study_id,patient_id,report\n" + "\n".join(lines[::-1]))
    found = read_reference(path)
    assert found.ids == five_studies().ids
    assert found.affirmed == five_studies().affirmed
    assert not found.is_listed


def test_given_findings_are_taken_as_they_are(tmp_path: Path) -> None:
    text = "study_id,patient_id,findings\ns1,p1,nodule; my finding\ns2,p2,\n"
    found = read_reference(table(tmp_path / "t.csv", text))
    assert found.affirmed == (frozenset({"nodule", "my finding"}), frozenset())
    assert found.is_judged.all()


def test_a_parquet_table_with_lists_is_read(tmp_path: Path) -> None:
    rows = pa.table(
        {"study_id": ["b", "a"], "patient_id": ["p", "q"], "findings": [["nodule"], None]}
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    found = read_reference(tmp_path / "t.parquet")
    assert (found.ids, found.affirmed) == (("a", "b"), (frozenset(), frozenset({"nodule"})))


def test_a_curated_folder_is_read_and_its_test_split_taken(tmp_path: Path) -> None:
    studies = phantom_studies(40)
    folder = write_curated(tmp_path / "c", studies)
    found = read_reference(folder)
    assert {s.split for s in found.studies} == {"test"}
    assert len(read_reference(folder, "all")) == 40
    assert (
        read_reference(folder / "studies.parquet", "all").hash == read_reference(folder, "all").hash
    )


@pytest.mark.parametrize(
    ("text", "rule", "said"),
    [
        ("study_id,report\ns1,x\n", "missing-column", "no column 'patient_id'"),
        ("study_id,patient_id\ns1,p1\n", "missing-column", "neither a column 'report' nor 'findings'"),
        (HEAD + "s1,p1,x,,\n,p2,y,,\n", "missing-cell", "Row 2 of t.csv has no study_id"),
        (HEAD + "s1,,x,,\n", "missing-cell", "Row 1 of t.csv has no patient_id"),
        (HEAD + "s1,p1,x,,\ns1,p1,y,,\n", "duplicate-study", "1 study_ids occur more than once"),
        (HEAD, "no-studies", "There are no studies"),
        (HEAD + '"s1,p1\n', "unreadable-table", "cannot be read as CSV"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_named(
    tmp_path: Path, text: str, rule: str, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_reference(table(tmp_path / "t.csv", text))
    assert caught.value.rule == rule
    assert said in str(caught.value)


def test_a_table_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEAD.encode() + b"s1,p1,\xff,,\n")
    with pytest.raises(InputError, match="as CSV in UTF-8") as caught:
        read_reference(tmp_path / "t.csv")
    assert caught.value.rule == "unreadable-table"


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="is no Parquet file") as caught:
        read_reference(tmp_path / "t.parquet")
    assert caught.value.rule == "unreadable-table"


def test_no_table_and_an_unfinished_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no table of studies"):
        read_reference(tmp_path / "none.csv")
    with pytest.raises(Incomplete, match="has no manifest"):
        read_reference(tmp_path)


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", HEAD + "s1,p1,x,,val\ns2,p2,y,,test\n")
    with pytest.raises(InputError, match="there are test, val") as caught:
        read_reference(path, "train")
    assert caught.value.rule == "unknown-split"
    assert read_reference(path).ids == ("s2",)


def test_texts_are_the_same_whatever_their_case_and_space() -> None:
    reports = ["A  nodule.", "a nodule.", "Another.", "", ""]
    found = Reference(tuple(study(f"s{i}", "p", text) for i, text in enumerate(reports)))
    assert found.text_key[0] == found.text_key[1] != found.text_key[2]
    assert len(set(found.text_key.tolist())) == 4  # nothing says that two missing texts are alike


def test_a_study_of_which_nothing_is_known_is_no_normal_study() -> None:
    found = Reference(
        (study("a", "p", "No nodule."), study("b", "q", ""), study("c", "r", "Nodule."))
    )
    assert found.is_judged.tolist() == [True, False, True]


def test_a_finding_is_affirmed_by_its_kinds() -> None:
    found = Reference((study("a", "p", "Multiple nodules."), study("b", "q", "No nodule.")))
    assert asked_for(found, "nodule").tolist() == [True, False]
    assert asked_for(found, "a finding of one's own").tolist() == [False, False]


def test_lobes_are_names_of_the_vocabulary() -> None:
    assert set(LOBES) <= set(vocabulary().names("location"))


def test_places_are_of_affirmed_findings_alone() -> None:
    text = "Nodule in the right upper lobe. No consolidation in the left lower lobe."
    found = Reference((study("a", "p", text), study("b", "q", "")))
    assert found.places(lobe_of)[0]["nodule"] == {"right upper lobe"}
    assert "consolidation" not in found.places(side_of)[0]


def test_labels_are_the_sources_own_where_it_gave_any() -> None:
    a = study("a", "p", "Pleural effusion.", labels=("emphysema",))
    b = study("b", "q", "Pleural effusion.")
    given = Reference((a, b)).labels
    assert given[:, LABELS.index("emphysema")].tolist() == [1, 0]
    assert given[:, LABELS.index("pleural effusion")].tolist() == [0, 0]
    read = Reference((b,)).labels
    assert read[:, LABELS.index("pleural effusion")].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("affirmed", "no-findings", "No study has findings"),
        ("labels", "no-findings", "No study has findings"),
    ],
)
def test_studies_without_findings_are_told(name: str, rule: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        getattr(Reference((study("a", "p", ""),)), name)
    assert caught.value.rule == rule


def test_findings_outside_the_18_labels_are_told() -> None:
    reference = Reference((study("a", "p", "Scoliosis."),))
    if reference.affirmed[0] & set(LABELS):
        pytest.skip("the vocabulary files scoliosis under a label")
    with pytest.raises(InputError, match="18 labels") as caught:
        _ = reference.labels
    assert caught.value.rule == "no-labels"


def test_the_hash_knows_the_reports_and_not_where_files_lie() -> None:
    one = study("a", "p", "Nodule.")
    assert Reference((one,)).hash == Reference((study("a", "p", "Nodule.", volume_path="/x"),)).hash
    assert Reference((one,)).hash != Reference((study("a", "p", "No nodule."),)).hash


def test_scans_and_reconstructions_are_told_by_ct_rates_names() -> None:
    found = Reference(tuple(study(n, "p", "x") for n in ("valid_1_a_2", "valid_1_b_1", "other-3")))
    assert found.scan == (("other-3", 1), ("valid_1_a", 2), ("valid_1_b", 1))


def test_keys_are_equal_exactly_where_sets_are() -> None:
    reference = five_studies()
    same = np.equal.outer(reference.findings_key, reference.findings_key)
    truth = [[a == b for b in reference.affirmed] for a in reference.affirmed]
    assert same.tolist() == truth
