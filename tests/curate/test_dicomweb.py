import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pydicom
import pytest
from click.testing import Result
from typer.testing import CliRunner

from medfinder.cli.app import app
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources import dicomweb, pacs
from medfinder.curate.sources.dicomweb import DicomwebSource, PacsQuery
from medfinder.curate.sources.remote import Patience
from medfinder.curate.sources.reports_fhir import read_fhir
from medfinder.embed import Embedder
from medfinder.errors import ArtifactError, ConfigError, InputError, MedFinderError, MissingExtra
from medfinder.phantom.phantom import write_phantoms
from medfinder.records import Rejection
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.studies import read_studies
from medfinder.volume.dicom_writer import derive_uid
from medfinder.volume.read import VolumeRef
from stubs.encoders import GridEncoder, WordEncoder
from stubs.pacs import BINARY, PLUGIN, Handler, Orthanc, Proxy, orthanc, proxy
from stubs.sr import DOSE, section, text, write_sr

pytestmark = pytest.mark.skipif(
    not (BINARY and PLUGIN), reason="no Orthanc with its DICOMweb plugin on this machine"
)

HASTY = Patience(tries=3, wait_s=0.01, longest_wait_s=0.05, timeout_s=5)
N_SLICES = 24
WORDS = {0: "Large left pleural effusion.", 1: "Pulmonary emphysema in both upper lobes."}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly, whatever proxy the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantom studies as DICOM files, with text reports of two and a dose report."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 3, size=(N_SLICES, 32, 32), dicom=True, p_second_study=0.0)
    for number in range(3):
        for file in (folder / "dicom" / f"ph1-s{number:06d}").glob("*.dcm"):
            ds = pydicom.dcmread(file)
            ds.AccessionNumber, ds.StudyDate = f"A{number}", f"2020010{number + 1}"
            ds.save_as(file)
    for number, words in WORDS.items():
        study = study_id(number)
        shared = {
            "PatientID": f"ph1-p{number:06d}",
            "AccessionNumber": f"A{number}",
            "StudyDate": f"2020010{number + 1}",
        }
        write_sr(
            folder / "sr" / f"{number}.dcm",
            [section("Findings", text("Finding", words))],
            study_id=study,
            **shared,
        )
        dose = folder / "sr" / f"dose{number}.dcm"
        write_sr(dose, [], study_id=study, name="d", sop_class=DOSE, **shared)
    return folder


def study_id(number: int) -> str:
    return derive_uid("study", f"ph1-s{number:06d}")


@pytest.fixture(scope="module")
def server(dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.upload(*sorted(dicom.rglob("*.dcm")))
        yield running


@pytest.fixture
def front(server: Orthanc) -> Iterator[Proxy]:
    with proxy(server.root) as running:
        yield running


def source(front: Proxy, folder: Path, query: PacsQuery | None = None) -> DicomwebSource:
    return DicomwebSource(f"{front.root}/dicom-web", folder, query, patience=HASTY)


def one(number: int = 0) -> PacsQuery:
    return PacsQuery(accessions=(f"A{number}",))


def outcome(made: DicomwebSource) -> tuple[int, list[str]]:
    """Return (volumes, rules of rejections)."""
    items = list(made.items())
    assert all(isinstance(i, VolumeRef | Rejection) for i in items)
    rules = [i.rule for i in items if isinstance(i, Rejection)]
    return len(items) - len(rules), rules


def is_series(path: str) -> bool:
    """Whether a request is for a whole series of pixels or words."""
    return "/series/" in path and "/instances" not in path


def is_retrieval(path: str) -> bool:
    return is_series(path) or "/instances/" in path


def retrieved(asked: list[str]) -> list[str]:
    return [path for path in asked if is_retrieval(path)]


# -- the way through -------------------------------------------------------------------


def test_a_pacs_is_curated_indexed_and_searched(server: Orthanc, tmp_path: Path) -> None:
    out = tmp_path / "studies"
    curate(DicomwebSource(server.url, tmp_path / "pacs"), out, CurateConfig(workers=1))
    studies = read_studies(out / "studies.parquet")
    assert len(studies) == 3
    assert sorted(s.report.text for s in studies if s.report) == [
        f"Findings:\n{words}" for words in sorted(WORDS.values())
    ]
    assert all(s.shape[0] == N_SLICES and s.source == "dicomweb" for s in studies)
    shown = " ".join(f"{s.study_id} {s.patient_id}" for s in studies)
    assert not any(raw in shown for raw in ("2.25.", "ph1-p"))  # pseudonyms alone

    embedders = {"volume": Embedder(GridEncoder()), "report": Embedder(WordEncoder())}
    build_index(out, tmp_path / "idx", embedders["volume"], embedders["report"])
    finder = Finder(open_index(tmp_path / "idx").index, embedders)
    hit = finder.search("large pleural effusion", k=1)[0]
    assert hit.study.report is not None
    assert "effusion" in hit.study.report.text


def test_the_files_are_those_of_the_pacs_byte_for_byte(
    server: Orthanc, dicom: Path, tmp_path: Path
) -> None:
    list(DicomwebSource(server.url, tmp_path, one()).items())
    sent = {f.read_bytes() for f in (dicom / "dicom" / "ph1-s000000").glob("*.dcm")}
    # Orthanc sends the stored file when no other transfer syntax is asked for.
    assert {f.read_bytes() for f in tmp_path.rglob("*.dcm") if "dose" not in f.name} >= sent


def test_what_is_complete_is_not_asked_for_again(front: Proxy, tmp_path: Path) -> None:
    first = list(source(front, tmp_path).items())
    front.asked.clear()
    assert list(source(front, tmp_path).items()) == first
    assert retrieved(front.asked) == []


def test_a_series_that_grew_in_the_pacs_is_completed(front: Proxy, tmp_path: Path) -> None:
    list(source(front, tmp_path, one()).items())
    series = max(
        (p for p in tmp_path.glob("*/*") if p.is_dir()), key=lambda p: len(list(p.iterdir()))
    )
    gone = sorted(series.glob("*.dcm"))[5]
    content = gone.read_bytes()
    gone.unlink()
    front.asked.clear()
    assert outcome(source(front, tmp_path, one())) == (1, [])
    assert len(retrieved(front.asked)) == 1  # one instance, not the series
    assert gone.read_bytes() == content


def test_the_download_folder_is_for_its_owner_alone(front: Proxy, tmp_path: Path) -> None:
    source(front, tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_dose_reports_are_named_and_do_not_become_reports(front: Proxy, tmp_path: Path) -> None:
    made = source(front, tmp_path)
    list(made.items())
    assert [r.rule for r in made.leftovers()].count("not-a-report") == 2


def test_a_row_of_the_table_wins_and_may_name_a_study_by_its_accession_number(
    server: Orthanc, tmp_path: Path
) -> None:
    table = tmp_path / "reports.csv"
    table.write_text("accession,text\nA0,Small right pneumothorax.\nA9,Of no study here at all.\n")
    made = DicomwebSource(server.url, tmp_path / "pacs", reports=table)
    texts = {
        made.facts(ref, {"study_id": ref.item.split("/")[0]}).text
        for ref in made.items()
        if isinstance(ref, VolumeRef)
    }
    assert texts == {"Small right pneumothorax.", f"Findings:\n{WORDS[1]}", ""}
    assert [r.rule for r in made.leftovers()].count("volume-missing") >= 1


def test_names_and_numbers_of_the_pacs_are_known_to_who_removes_them(
    front: Proxy, tmp_path: Path
) -> None:
    made = source(front, tmp_path, one())
    (ref,) = (i for i in made.items() if isinstance(i, VolumeRef))
    facts = made.facts(ref, {"patient_id": "ph1-p000000", "study_id": "x"})
    assert {"A0", "ph1-p000000", "Canary^Name"} <= set(facts.known)
    assert (facts.study_id, facts.patient_id) == (None, None)
    assert (facts.raw_study_id, facts.raw_patient_id) == (study_id(0), "ph1-p000000")


def test_a_report_of_the_table_leaves_the_pacs_s_own_unnamed(
    server: Orthanc, tmp_path: Path
) -> None:
    table = tmp_path / "reports.csv"
    table.write_text("accession,text\nA0,Small right pneumothorax.\n")
    made = DicomwebSource(server.url, tmp_path / "pacs", one(), reports=table)
    for ref in made.items():
        if isinstance(ref, VolumeRef):
            made.facts(ref, {})
    assert [r.rule for r in made.leftovers()] == ["not-a-report"]


# -- the search ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "n_found"),
    [
        (PacsQuery(from_date=date(2020, 1, 2)), 2),
        (PacsQuery(to_date=date(2020, 1, 2)), 2),
        (PacsQuery(from_date=date(2020, 1, 2), to_date=date(2020, 1, 2)), 1),
        (PacsQuery(body_part="chest"), 3),
        (PacsQuery(body_part="HEAD"), 0),
        (PacsQuery(patients=("ph1-p000001",)), 1),
        (PacsQuery(patients=("ph1-p000001",), accessions=("A0", "A1")), 2),
    ],
)
def test_a_query_finds_the_studies_it_describes(
    front: Proxy, tmp_path: Path, query: PacsQuery, n_found: int
) -> None:
    assert outcome(source(front, tmp_path, query))[0] == n_found


@pytest.mark.parametrize("query", [PacsQuery(from_date=date(2021, 1, 1)), PacsQuery(modality="MR")])
def test_a_search_that_finds_nothing_is_an_error(
    front: Proxy, tmp_path: Path, query: PacsQuery
) -> None:
    with pytest.raises(
        InputError, match=r"expected at least one with .*Widen the search"
    ) as raised:
        list(source(front, tmp_path, query).items())
    assert raised.value.rule == "not-in-pacs"


def test_a_listed_number_that_the_pacs_does_not_have_is_named_by_its_place(
    front: Proxy, tmp_path: Path
) -> None:
    items = list(source(front, tmp_path, PacsQuery(accessions=("A0", "SECRET-77"))).items())
    missing = [i for i in items if isinstance(i, Rejection)]
    assert [(m.item, m.rule) for m in missing] == [
        ("accession number 2 of the list", "not-in-pacs")
    ]
    assert "SECRET" not in repr(missing)


def test_a_wildcard_in_a_number_does_not_widen_the_search(front: Proxy, tmp_path: Path) -> None:
    found = outcome(source(front, tmp_path, PacsQuery(patients=("ph1-*",))))
    assert found == (0, ["not-in-pacs"])


def test_a_pacs_that_ignores_filters_and_offsets_is_seen_through(
    front: Proxy, tmp_path: Path
) -> None:
    def forget(handler: Handler) -> bool:
        handler.path = handler.path.split("?")[0] + "?includefield=00080061,00080050"
        return False

    front.fault = forget
    query = PacsQuery(from_date=date(2020, 1, 2), accessions=("A0", "A1"))
    assert outcome(source(front, tmp_path, query)) == (1, ["not-in-pacs"])


def test_dates_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 2021-01-01 to 2020-01-01\. Swap them"):
        PacsQuery(from_date=date(2021, 1, 1), to_date=date(2020, 1, 1))


def test_an_identifier_that_climbs_out_of_the_folder_is_not_asked_for(
    front: Proxy, tmp_path: Path
) -> None:
    def climb(handler: Handler) -> bool:
        if "/series" in handler.path:
            return False
        rows = [{"0020000D": {"vr": "UI", "Value": ["../../etc"]}}]
        handler.answer(200, json.dumps(rows).encode(), "application/dicom+json")
        return True

    front.fault = climb
    assert outcome(source(front, tmp_path / "in")) == (0, ["unsafe-id"])
    assert not any("etc" in path for path in front.asked)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


# -- a PACS that stops -----------------------------------------------------------------


@pytest.mark.parametrize("honest", [True, False])
def test_an_answer_that_breaks_off_is_completed_from_where_it_broke(
    front: Proxy, tmp_path: Path, honest: bool
) -> None:
    def cut(handler: Handler) -> bool:
        if is_series(handler.path):
            handler.forward(cut=50_000, honest=honest)
            return True
        return False

    front.fault = cut
    assert outcome(source(front, tmp_path, one(2))) == (1, [])
    singles = [path for path in front.asked if "/instances/" in path]
    assert 0 < len(singles) < N_SLICES
    assert len(list(tmp_path.rglob("*.dcm"))) == N_SLICES


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_answer_that_passes_is_asked_for_again(
    front: Proxy, tmp_path: Path, status: int
) -> None:
    failed: set[str] = set()

    def once(handler: Handler) -> bool:
        if handler.path in failed:
            return False
        failed.add(handler.path)
        handler.answer(status, b"busy", Retry_After="0")
        return True

    front.fault = once
    assert outcome(source(front, tmp_path, one(2))) == (1, [])


def test_a_series_that_does_not_come_whole_is_named_and_asked_for_by_the_next_run(
    front: Proxy, tmp_path: Path
) -> None:
    lost = []

    def swallow(handler: Handler) -> bool:
        if is_series(handler.path):
            handler.forward(cut=50_000)
            return True
        if "/instances/" in handler.path:
            lost.append(handler.path)
            handler.answer(500, b"")
            return True
        return False

    front.fault = swallow
    items = list(source(front, tmp_path, one(2)).items())
    assert [i.rule for i in items if isinstance(i, Rejection)] == ["incomplete-retrieval"]
    assert "of 24 instances are here" in items[0].reason  # type: ignore[union-attr]
    assert "it answered 500" in items[0].reason  # type: ignore[union-attr]
    assert len(set(lost)) == 3  # not every one of the rest
    front.fault = lambda handler: False
    front.asked.clear()
    assert outcome(source(front, tmp_path, one(2))) == (1, [])
    assert len(retrieved(front.asked)) <= N_SLICES


def test_one_bad_series_does_not_stop_the_others(front: Proxy, tmp_path: Path) -> None:
    bad = study_id(1)

    def fail(handler: Handler) -> bool:
        if bad in handler.path and is_retrieval(handler.path):
            handler.answer(404, b"gone")
            return True
        return False

    front.fault = fail
    n_volumes, rules = outcome(source(front, tmp_path))
    assert n_volumes == 2
    assert set(rules) == {"incomplete-retrieval"}


def test_a_whole_answer_without_all_instances_is_not_taken_for_the_series(
    front: Proxy, tmp_path: Path
) -> None:
    def none(handler: Handler) -> bool:
        if is_series(handler.path):
            body = b"\r\n--b--\r\n"
            handler.answer(200, body, "multipart/related; boundary=b; type=application/dicom")
            return True
        if "/instances/" in handler.path:
            handler.answer(404)
            return True
        return False

    front.fault = none
    assert outcome(source(front, tmp_path, one(2))) == (0, ["incomplete-retrieval"])


def test_files_of_another_series_or_of_no_dicom_are_not_taken(front: Proxy, tmp_path: Path) -> None:
    def other(handler: Handler) -> bool:
        if is_retrieval(handler.path):
            body = b"\r\n--b\r\n\r\n" + b"x" * 4000 + b"\r\n--b--\r\n"
            handler.answer(200, body, "multipart/related; boundary=b; type=application/dicom")
            return True
        return False

    front.fault = other
    items = list(source(front, tmp_path, one(2)).items())
    assert "it sent a file that cannot be used (corrupt)" in items[0].reason  # type: ignore[union-attr]
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize("cut", [None, -100])
def test_single_instances_outside_of_a_multipart_are_read_and_checked_by_their_pixels(
    front: Proxy, dicom: Path, tmp_path: Path, cut: int | None
) -> None:
    files = {
        derive_uid("instance", pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID, i): f
        for i, f in enumerate(sorted((dicom / "dicom" / "ph1-s000002").glob("*.dcm")))
    }

    def bare(handler: Handler) -> bool:
        if is_series(handler.path):
            handler.answer(500)
            return True
        if "/instances/" in handler.path:
            content = files[handler.path.split("/")[-1]].read_bytes()
            handler.answer(200, content, "application/dicom", cut=cut, honest=False)
            return True
        return False

    front.fault = bare
    items = list(source(front, tmp_path, one(2)).items())
    if cut is None:
        assert isinstance(items[0], VolumeRef)
    else:
        assert "it sent a file that cannot be used (truncated)" in items[0].reason  # type: ignore[union-attr]


def test_a_pacs_that_does_not_know_the_wildcard_syntax_is_asked_without(
    front: Proxy, tmp_path: Path
) -> None:
    def pick(handler: Handler) -> bool:
        if is_retrieval(handler.path) and "transfer-syntax=*" in handler.headers["Accept"]:
            handler.answer(406)
            return True
        return False

    front.fault = pick
    assert outcome(source(front, tmp_path, one(2))) == (1, [])


def test_credentials_that_expire_during_a_run_end_it(front: Proxy, tmp_path: Path) -> None:
    def expire(handler: Handler) -> bool:
        if is_retrieval(handler.path):
            handler.answer(401)
            return True
        return False

    front.fault = expire
    with pytest.raises(InputError, match="Set them and run again") as raised:
        list(source(front, tmp_path, one(2)).items())
    assert raised.value.rule == "pacs-refused"


def test_a_pacs_that_goes_away_ends_the_run_with_an_error_that_says_to_run_again(
    front: Proxy, tmp_path: Path
) -> None:
    n_series = 0

    def die(handler: Handler) -> bool:
        nonlocal n_series
        n_series += is_series(handler.path)
        if n_series > 1:
            handler.answer(503, b"", Retry_After="3600")
            return True
        return False

    front.fault = die
    with pytest.raises(InputError, match="run the same command again") as raised:
        list(source(front, tmp_path, PacsQuery(accessions=("A1", "A2"))).items())
    assert raised.value.rule == "pacs-unreachable"
    assert "127.0.0.1" in str(raised.value)
    assert study_id(1) not in str(raised.value)
    front.fault = lambda handler: False
    assert outcome(source(front, tmp_path, PacsQuery(accessions=("A1", "A2")))) == (2, [])


def test_a_pacs_that_is_not_there_is_named(tmp_path: Path) -> None:
    with proxy() as gone:
        url = gone.root
    with pytest.raises(InputError, match="the connection failed") as raised:
        list(DicomwebSource(url, tmp_path, patience=HASTY).items())
    assert raised.value.rule == "pacs-unreachable"


def test_silence_is_bounded(front: Proxy, tmp_path: Path) -> None:
    def sleep(handler: Handler) -> bool:
        if is_retrieval(handler.path):
            time.sleep(0.6)
            return True
        return False

    front.fault = sleep
    hasty = Patience(tries=2, wait_s=0, longest_wait_s=0, timeout_s=0.2)
    made = DicomwebSource(f"{front.root}/dicom-web", tmp_path, one(2), patience=hasty)
    items = list(made.items())
    assert "it did not answer in time" in items[0].reason  # type: ignore[union-attr]


def test_a_page_of_html_is_told_from_a_pacs(front: Proxy, tmp_path: Path) -> None:
    def login(handler: Handler) -> bool:
        handler.answer(200, b"<html>Log in</html>")
        return True

    front.fault = login
    with pytest.raises(InputError, match="it answered text/html instead of DICOM JSON") as raised:
        list(source(front, tmp_path).items())
    assert raised.value.rule == "not-dicomweb"
    assert len(front.asked) == 1  # another try would change nothing


def test_html_instead_of_a_series_costs_that_series_alone(front: Proxy, tmp_path: Path) -> None:
    def page(handler: Handler) -> bool:
        if is_retrieval(handler.path):
            handler.answer(200, b"<html>", "text/html; charset=utf-8")
            return True
        return False

    front.fault = page
    items = list(source(front, tmp_path, one(2)).items())
    assert "it answered text/html instead of DICOM" in items[0].reason  # type: ignore[union-attr]


def test_half_a_json_is_asked_for_again(front: Proxy, tmp_path: Path) -> None:
    n_asked = 0

    def half(handler: Handler) -> bool:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 1:
            handler.forward(cut=30, honest=False)
        return n_asked == 1

    front.fault = half
    assert outcome(source(front, tmp_path, one(2))) == (1, [])


def test_a_pacs_that_lists_and_never_sends_is_given_up(
    front: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "_MAX_FAILED_SERIES", 2)

    def never(handler: Handler) -> bool:
        if is_retrieval(handler.path):
            handler.answer(404)
            return True
        return False

    front.fault = never
    with pytest.raises(InputError, match="for 2 series one after the other"):
        list(source(front, tmp_path).items())


def test_a_full_disk_is_named_and_nothing_half_written_is_taken_for_whole(
    front: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    # The kernel refuses files beyond this size, as a full disk refuses the next byte.
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(ArtifactError, match="The disk of the download folder is full"):
            list(source(front, tmp_path, one(2)).items())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.rglob("*.dcm"))
    assert outcome(source(front, tmp_path, one(2))) == (1, [])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written: Not a directory"):
        DicomwebSource("http://127.0.0.1:1", tmp_path / "file" / "below")


def test_a_run_that_is_killed_goes_on_where_it_stopped(front: Proxy, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from medfinder.curate.sources.dicomweb import DicomwebSource
        list(DicomwebSource({front.root + "/dicom-web"!r}, Path({str(tmp_path / "in")!r})).items())
        """)
    )
    last = study_id(2)

    def stall(handler: Handler) -> bool:
        if is_series(handler.path) and last in handler.path:
            handler.forward(cut=70_000, honest=False, pause_s=20)
            return True
        return False

    front.fault = stall
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    aside = tmp_path / "in" / ".partial"
    while not list(aside.glob(f"{last}/*/*.dcm")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = list(aside.rglob("*.dcm"))
    front.fault = lambda handler: False
    front.asked.clear()
    n_volumes, rules = outcome(source(front, tmp_path / "in"))
    assert (n_volumes, rules) == (3, [])
    assert kept
    assert all(last in path for path in retrieved(front.asked))  # not those that came whole
    assert not list(aside.rglob("*.dcm"))


@pytest.mark.parametrize("seed", range(3))
def test_through_any_mixture_of_faults_runs_end_with_every_file_as_it_was_sent(
    front: Proxy, dicom: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)

    def mix(handler: Handler) -> bool:
        kind = rng.random()
        if kind < 0.1:
            handler.forward(cut=rng.randrange(80_000), honest=rng.random() < 0.5)
        elif kind < 0.2:
            handler.answer(rng.choice([500, 503, 429, 404, 403 if kind < 0.11 else 502]), b"no")
        elif kind < 0.22:
            handler.answer(200, b"<html>", rng.choice(["text/html", "application/dicom+json"]))
        return kind < 0.22

    front.fault = mix
    sent = {f.read_bytes() for f in dicom.rglob("*.dcm")}
    for _ in range(60):
        with contextlib.suppress(InputError):
            items = list(source(front, tmp_path).items())
            if not any(isinstance(i, Rejection) for i in items) and len(items) == 3:
                break
        for series in tmp_path.glob("[!.]*/*"):  # in its place only when whole
            assert len(list(series.iterdir())) in (1, N_SLICES)
    else:
        pytest.fail("60 runs did not bring the studies")
    got = [f.read_bytes() for f in tmp_path.glob("[!.]*/*/*.dcm")]
    assert len(got) >= 3 * N_SLICES
    assert set(got) <= sent


def test_memory_does_not_grow_with_a_series(tmp_path: Path) -> None:
    import tracemalloc

    from medfinder.curate.sources.multipart import write_parts

    def body() -> Iterator[bytes]:
        for _ in range(200):
            yield b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
            for _ in range(4):
                yield b"\0" * 2**18
        yield b"\r\n--b--\r\n"

    tracemalloc.start()
    n_parts = sum(1 for _ in write_parts(body(), b"--b", tmp_path / "part"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_parts == 200
    assert peak < 4 * 2**20  # of 200 MiB


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate")
def test_a_certificate_that_is_not_trusted_is_named_at_once(
    front: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    front.socket = context.wrap_socket(front.socket, server_side=True)
    url = front.root.replace("http:", "https:")
    with pytest.raises(InputError, match="its certificate is not trusted; set REQUESTS_CA_BUNDLE"):
        list(DicomwebSource(f"{url}/dicom-web", tmp_path / "in").items())
    with pytest.raises(InputError, match="its certificate is not trusted; set SSL_CERT_FILE"):
        list(read_fhir(f"{url}/DiagnosticReport"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    made = DicomwebSource(f"{url}/dicom-web", tmp_path / "in", one(2))
    assert outcome(made) == (1, [])


# -- who may ask -----------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"MEDFINDER_PACS_{name}", raising=False)
    return monkeypatch


def test_basic_credentials_come_from_the_environment(
    dicom: Path, tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    with orthanc(tmp_path / "orthanc", {"ana": "canary-pass"}) as locked:
        with pytest.raises(InputError, match="refuses: it answered 401") as raised:
            list(DicomwebSource(locked.url, tmp_path / "a", patience=HASTY).items())
        assert raised.value.rule == "pacs-refused"
        bare.setenv("MEDFINDER_PACS_USER", "ana")
        bare.setenv("MEDFINDER_PACS_PASSWORD", "canary-pass")
        with pytest.raises(InputError, match="has no study that was asked for"):  # it let us in
            list(DicomwebSource(locked.url, tmp_path / "a").items())


def test_a_token_is_sent_as_bearer_and_never_shown(
    front: Proxy, tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    sent = []

    def look(handler: Handler) -> bool:
        sent.append(handler.headers.get("Authorization"))
        handler.answer(403)
        return True

    front.fault = look
    bare.setenv("MEDFINDER_PACS_TOKEN", "canary-token")
    made = source(front, tmp_path)
    with pytest.raises(InputError) as raised:
        list(made.items())
    assert sent == ["Bearer canary-token"]
    assert "canary" not in f"{raised.value} {made.__dict__} {made.pacs.__dict__}"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"USER": "ana"}, "expected both MEDFINDER_PACS_USER and"),
        ({"TOKEN": "two words"}, "The token in MEDFINDER_PACS_TOKEN cannot be sent"),
    ],
)
def test_credentials_that_cannot_be_used_are_named(
    tmp_path: Path, bare: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        bare.setenv(f"MEDFINDER_PACS_{name}", value)
    with pytest.raises(ConfigError, match=message):
        DicomwebSource("http://127.0.0.1:1/dicom-web", tmp_path)


def test_an_address_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set MEDFINDER_PACS_USER") as raised:
        DicomwebSource("http://ana:canary@host/dicom-web", tmp_path)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("url", ["ftp://host", "host:8042", "http://", "http://host:port", ""])
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"expected http://host or https://host") as raised:
        DicomwebSource(url, tmp_path)
    assert raised.value.rule == "bad-address"


def test_without_the_extra_the_error_is_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dicomweb_client.web", None)
    with pytest.raises(MissingExtra, match=r"^pip install 'medfinder\[pacs\]'$"):
        DicomwebSource("http://127.0.0.1:1/dicom-web", tmp_path)
    assert pacs.PIP.startswith("pip install")


# -- the command -----------------------------------------------------------------------


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["curate", "dicomweb", *map(str, arguments)])


def test_the_command_curates_the_studies_of_a_list_with_fhir_reports_first(
    server: Orthanc, tmp_path: Path
) -> None:
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("A0\r\n\r\n A2 \nA7\n")
    number = {"type": {"coding": [{"code": "ACSN"}]}, "value": "A0"}
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "CT"},
        "identifier": [number],
        "conclusion": "Small right pneumothorax.",
    }
    (tmp_path / "reports.ndjson").write_text(json.dumps(report))
    out = tmp_path / "studies"
    options = ["--accessions", wanted, "--fhir", tmp_path / "reports.ndjson", "--json"]
    options += ["--from-date", "2020-01-01", "--to-date", "20200103", "--set", "workers=1"]
    done = command(server.url, out, *options)
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["studies"] == 2
    assert counts["by_rule"] == {"not-a-report": 1, "not-in-pacs": 1}
    texts = [s.report.text for s in read_studies(out / "studies.parquet") if s.report]
    assert texts == ["Small right pneumothorax."]
    assert (tmp_path / "studies-pacs").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from-date", "March"], "A day is written as 2020-03-01, got 'March'"),
        (["--patients", "{tmp}/none"], "cannot be read: expected a text file in UTF-8"),
        (["--accessions", "{tmp}/empty"], "is empty: expected one number a line"),
        (["--sr", "{tmp}/none"], "There is no SR file or folder"),
    ],
)
def test_options_that_cannot_be_used_are_named_before_anything_is_asked(
    tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty").write_text("\n \n")
    filled = [option.format(tmp=tmp_path) for option in options]
    done = command("http://127.0.0.1:1/dicom-web", tmp_path / "out", *filled)
    assert isinstance(done.exception, MedFinderError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()
