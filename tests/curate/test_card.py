"""The dataset card: its numbers by a slow truth, its pages, and two datasets compared."""

import dataclasses
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from medfinder.curate.card import Card, group_of, licence, meaning, write_card
from medfinder.curate.difference import (
    difference,
    difference_markdown,
    kolmogorov_smirnov,
    total_variation,
    write_difference,
)
from medfinder.curate.pictures import Node, bars, flow, groups, histogram
from medfinder.curate.statistics import MIN_REPORTS, Spread, statistics
from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.records import Doubt, Report, Study
from reference import dataset_statistics
from stubs.curated import REJECTIONS, phantom_studies, write_curated

DOUBTS = (
    Doubt("S-00001", "label-negated", "Denied.", 0.8),
    Doubt("S-00001", "short-report", "Short.", 0.2),
    Doubt("S-00002", "doubt-of-tomorrow", "Not known yet.", 0.5),
)
REJECTION_RULES = """
    other-modality other-body-part too-few-slices blank-header not-hu-offset not-hu-windowed
    truncated duplicate-volume near-duplicate-volume other-series volume-missing unsafe-id
    duplicate-row unreadable
"""
DOUBT_RULES = """
    translation-placeholder translation-number translation-unit translation-negation
    translation-side translation-residue translation-length translation-findings
    placeholder-report short-report shared-report same-source-other-translation
    language-mismatch label-negated label-unmentioned label-missing no-labels burned-in-risk
    formula-cell not-listed
"""


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return phantom_studies(120)


@pytest.fixture
def curated(studies: list[Study], tmp_path: Path) -> Path:
    removed = {"removed": {"name": 12, "date": 30}, "site": "/etc/secret"}
    return write_curated(tmp_path / "cur", studies, REJECTIONS, DOUBTS, removed)


@pytest.fixture(scope="module")
def card(studies: list[Study], tmp_path_factory: pytest.TempPathFactory) -> Card:
    """The card of the same studies, drawn once; tests only read it."""
    folder = tmp_path_factory.mktemp("card")
    removed = {"removed": {"name": 12, "date": 30}, "site": "/etc/secret"}
    return write_card(write_curated(folder, studies, REJECTIONS, DOUBTS, removed))


def test_the_numbers_are_those_of_the_slow_truth(curated: Path, studies: list[Study]) -> None:
    truth = dataset_statistics.numbers(studies, REJECTIONS, DOUBTS)
    found = statistics(curated)
    states = truth.pop("states")
    for state, by in found.states.items():
        for split, n in by.items():
            assert n == states.get((state, split), 0)
    parts = {k: (p.n_studies, p.n_patients, p.n_reports) for k, p in found.splits.items()}
    assert parts == truth.pop("parts")
    for name, value in truth.items():
        got = getattr(found, name)
        if isinstance(got, Spread):
            assert got.summary() == pytest.approx(value), name
        else:
            assert got == value, name


def test_numbers_of_studies_without_reports_volumes_or_splits_are_counted(tmp_path: Path) -> None:
    bare = Study("s", "p", "", "", "", (0, 0, 0), (0.0, 0.0, 0.0))
    found = statistics(write_curated(tmp_path / "c", [bare]))
    assert (found.n_studies, found.n_volumes, found.n_reports, found.n_slices) == (1, 0, 0, 0)
    assert found.words.median is None
    assert write_card(tmp_path / "c").page.is_file()


def test_a_dataset_without_studies_has_a_card_too(tmp_path: Path) -> None:
    card = write_card(write_curated(tmp_path / "c", [], REJECTIONS))
    assert "0 chest CT studies" in card.markdown.read_text()


def test_the_share_over_100_words_is_that_of_the_texts(tmp_path: Path) -> None:
    made = [
        dataclasses.replace(s, report=Report(" ".join(["word"] * n)), translation=None, findings=())
        for s, n in zip(phantom_studies(4), (100, 101, 102, 3), strict=True)
    ]
    card = write_card(write_curated(tmp_path / "c", made))
    assert "50.0% of the texts have more than 100 words" in card.markdown.read_text()


def test_frequent_words_are_without_function_words_and_rare_words(tmp_path: Path) -> None:
    reports = ["The nodule with Smithson.", "Nodule with effusion.", "A nodule, the effusion."]
    made = [
        dataclasses.replace(s, report=Report(text), translation=None, findings=())
        for s, text in zip(phantom_studies(3), reports, strict=True)
    ]
    (words,) = statistics(write_curated(tmp_path / "c", made)).common_words.values()
    assert MIN_REPORTS == 3
    assert [(w.word, w.n_reports, w.n_occurrences) for w in words] == [("nodule", 3, 3)]


def test_the_median_is_numpys_for_any_counts() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 40):
        values = rng.integers(0, 9, n)
        kinds, counts = np.unique(values, return_counts=True)
        spread = Spread({int(k): int(c) for k, c in zip(kinds, counts, strict=True)})
        assert spread.median == np.median(values)


def test_the_card_tells_all_that_a_reader_needs(card: Card) -> None:
    text = card.markdown.read_text()
    for part in (
        "| studies | 120 |",
        "What went where",
        "most frequent findings",
        "Sex",
        "Slices a volume",
        "Scanner",
        "Length of the text",
        "Findings in each split",
        "Patients in more than one split: 0",
        "Left out, by rule",
        "The file ends too early",
        "Doubts, by rule",
        "A label whose only mention in the text is denied",
        "Licence: BIMCV research use",
        "not a medical device",
        "Limits",
        "| date | 30 |",
        "| manifest |",
    ):
        assert part in text, part


def test_a_rule_that_is_not_known_is_shown_under_its_own_name(card: Card) -> None:
    text = card.markdown.read_text()
    assert "| rule-of-tomorrow | other | 1 |  |" in text
    assert "| doubt-of-tomorrow | 1 |  |" in text


def rules_of_the_page() -> list[str]:
    """The rules of items that the page of rejections explains; those of its second table end a run."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "rejections.md"
    items = page.read_text(encoding="utf-8").split("\nSome errors are of what was asked")[0]
    rows = re.findall(r"^\| (`.+?) \|", items, re.MULTILINE)
    return sorted({rule for row in rows for rule in re.findall(r"`([a-z0-9-]+)`", row)})


@pytest.mark.parametrize("rule", rules_of_the_page())
def test_every_rule_of_an_item_on_the_page_of_rejections_has_a_meaning(rule: str) -> None:
    assert meaning(rule), "give it a line in curate/meanings.toml"


@pytest.mark.parametrize("rule", REJECTION_RULES.split())
def test_every_rule_of_rejection_has_a_meaning_and_a_group(rule: str) -> None:
    assert meaning(rule)
    assert group_of(rule) != "other"


@pytest.mark.parametrize("rule", DOUBT_RULES.split())
def test_every_rule_of_doubt_has_a_meaning(rule: str) -> None:
    assert meaning(rule)


def test_a_dataset_that_reports_no_removals_says_so(studies: list[Study], tmp_path: Path) -> None:
    folder = write_curated(tmp_path / "c", studies[:3], config={"removed": "yes", "flow": 3})
    text = write_card(folder).markdown.read_text()
    assert "reports no removals of identity" in text


def test_counts_of_removals_may_be_nested(studies: list[Study], tmp_path: Path) -> None:
    removed = {"text": {"name": 4}, "dicom": {"private": 9, "uid": 0}}
    folder = write_curated(tmp_path / "c", studies[:3], config={"removed": removed})
    text = write_card(folder).markdown.read_text()
    assert "| dicom private | 9 |\n| text name | 4 |\n" in text
    assert "dicom uid" not in text


def test_a_source_without_a_known_licence_says_so() -> None:
    assert licence("folder").name == "not stated"
    assert licence("bimcv-r") == licence("bimcv_r")


def test_the_same_dataset_gives_the_same_bytes(curated: Path, tmp_path: Path) -> None:
    write_card(curated, tmp_path / "one")
    write_card(curated, tmp_path / "two")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_card_holds_no_path_no_id_and_no_text_of_a_study(
    card: Card, studies: list[Study]
) -> None:
    pictures = card.markdown.parent / "card"
    for page in (card.markdown, card.page, *pictures.iterdir()):
        text = page.read_text()
        assert "/archive" not in text
        assert "/etc/secret" not in text
        for study in studies:
            assert study.patient_id not in text
            assert study.series_id not in text
            assert study.text == "" or study.text[:60] not in text


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.images = self.titles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.loaded += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.images += tag == "svg" and values.get("role") == "img"
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "link", "img"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_other_file(card: Card) -> None:
    text = card.page.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(name.startswith("#") and name[1:] in page.ids for name in page.loaded)
    assert page.images == 8
    assert '<html lang="en">' in text
    assert "prefers-color-scheme:dark" in text


def test_text_from_data_is_escaped_in_both_forms(card: Card) -> None:
    assert "a|b <i>" not in card.page.read_text()
    assert "a|b &lt;i&gt;" in card.page.read_text()
    assert r"a\|b \<i\>" in card.markdown.read_text()


def test_the_markdown_names_pictures_that_are_there_each_with_words(card: Card) -> None:
    text = card.markdown.read_text()
    found = re.findall(r"!\[(.+?)\]\((\S+)\)", text)
    assert len(found) == 8
    for words, file in found:
        assert len(words) > 20
        ElementTree.parse(card.markdown.parent / file)


@pytest.mark.parametrize(
    "picture",
    [
        bars("p", "A & <b>", {"$x$ & <y>": 3, "zero": 0}, unit="studies", of=4),
        histogram("p", "One value", {5.0: 3}, unit="mm"),
        histogram("p", "An outlier", {1.0: 500, 2.0: 400, 1e6: 1}, unit="mm"),
        groups("p", "Two", {"a": {"x": 0.5, "y": 0.0}, "b": {"x": 1.0}}, unit="%"),
        flow("p", "Flow", [Node("a", 0, 3), Node("<b>", 1, 3), Node("none", 1, 0)],
             [("a", "<b>", 3), ("a", "none", 0)]),
    ],
    ids=["bars", "one value", "outlier", "groups", "flow"],
)  # fmt: skip
def test_a_picture_is_xml_with_a_title_and_words_in_the_pages_colour(picture: object) -> None:
    from medfinder.curate.pictures import Picture

    assert isinstance(picture, Picture)
    for form in (picture.svg, picture.file.decode()):
        root = ElementTree.fromstring(form)
        assert root.attrib["role"] == "img"
        title, text = (root.find(f"{{http://www.w3.org/2000/svg}}{t}") for t in ("title", "desc"))
        assert title is not None
        assert title.text == picture.title
        assert text is not None
        assert text.text
    assert "currentColor" in picture.svg
    assert "#ffffff" not in picture.svg
    assert "<text" in picture.svg


def test_a_histogram_puts_outliers_in_its_last_bar_and_says_so() -> None:
    picture = histogram("p", "t", {1.0: 500, 2.0: 400, 1e6: 1}, unit="mm")
    assert "the last bar holds 1 beyond" in picture.svg


def test_a_card_of_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no curate folder at .* Check the path"):
        write_card(tmp_path / "none")


def test_a_card_of_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(Incomplete, match="its stage has not finished"):
        write_card(tmp_path / "c")


def test_a_card_of_a_folder_that_lost_its_studies_is_refused(curated: Path) -> None:
    (curated / "studies.parquet").unlink()
    with pytest.raises(Incomplete, match=r"There is no studies.parquet .* it resumes"):
        write_card(curated)


def test_studies_that_are_no_parquet_are_refused(curated: Path) -> None:
    (curated / "studies.parquet").write_text("no")
    with pytest.raises(Mismatch, match=r"studies.parquet is not a Parquet file"):
        write_card(curated)


def test_studies_that_lack_columns_are_refused(curated: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"study_id": ["a"]}), curated / "studies.parquet")
    with pytest.raises(Mismatch, match=r"lacks the columns age, .*another version"):
        write_card(curated)


def test_a_card_over_a_file_is_refused(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; a card needs a folder"):
        write_card(curated, tmp_path / "file")


# --- two datasets


@pytest.fixture
def changed(studies: list[Study], tmp_path: Path) -> Path:
    """The studies without the first, with one more, and with one of each kind of change."""
    with_report = [k for k, s in enumerate(studies) if s.report and k > 2]
    reported, translated, moved, seen = with_report[:4]
    other = list(studies)
    report = other[reported].report
    assert report is not None
    other[reported] = dataclasses.replace(
        other[reported], report=dataclasses.replace(report, text=report.text.upper())
    )
    other[translated] = dataclasses.replace(other[translated], translation="Another text.")
    to = "val" if other[moved].split != "val" else "test"
    other[moved] = dataclasses.replace(other[moved], split=to)
    other[seen] = dataclasses.replace(other[seen], volume_hash="f" * 64, findings=())
    fresh = dataclasses.replace(studies[5], study_id="Z-9", patient_id="Z-9", report=None)
    return write_curated(tmp_path / "other", [*other[1:], fresh], REJECTIONS[:2], DOUBTS[:1])


def test_every_kind_of_change_is_found_and_nothing_else(
    curated: Path, changed: Path, studies: list[Study]
) -> None:
    found = difference(curated, changed)
    reported, translated, moved, seen = [
        s.study_id for k, s in enumerate(studies) if s.report and k > 2
    ][:4]
    assert found.only_in_a == (studies[0].study_id,)
    assert found.only_in_b == ("Z-9",)
    assert found.changed_reports == (reported,)
    assert found.changed_translations == (translated,)
    assert list(found.moved) == [moved]
    assert found.changed_volumes == (seen,)
    has_findings = any(
        f.status == "present" for s in studies if s.study_id == seen for f in s.findings
    )
    assert found.changed_findings == ((seen,) if has_findings else ())
    assert found.n_common_studies == len(studies) - 1
    assert found.counts["n_studies"] == (len(studies), len(studies))
    assert found.rejections == {"rule-of-tomorrow": (1, 0), "truncated": (2, 1)}
    assert found.doubts == {"doubt-of-tomorrow": (1, 0), "short-report": (1, 0)}


def test_patients_and_texts_in_common_are_those_of_the_sets(
    curated: Path, changed: Path, studies: list[Study]
) -> None:
    from medfinder.studies import read_studies

    found = difference(curated, changed)
    after = read_studies(changed / "studies.parquet")
    patients = [{s.patient_id for s in side} for side in (studies, after)]
    texts = [
        {dataset_statistics.folded(s.text) for s in side if s.report} for side in (studies, after)
    ]
    assert found.n_common_patients == len(patients[0] & patients[1])
    assert found.n_common_texts == len(texts[0] & texts[1])
    pairs = {
        (p, a.split or "unsplit", b.split or "unsplit")
        for p in patients[0] & patients[1]
        for a in studies
        for b in after
        if a.patient_id == b.patient_id == p
    }
    for x, by in found.crossing_patients.items():
        for y, n in by.items():
            assert n == len([1 for _, a, b in pairs if (a, b) == (x, y)])


def test_a_dataset_compared_with_itself_differs_in_nothing(curated: Path) -> None:
    found = difference(curated, curated)
    assert all(d.distance in (0, None) for d in found.distances)
    assert all(a == b for a, b in found.counts.values())
    assert found.only_in_a == found.only_in_b == found.changed_reports == ()
    assert found.moved == {}
    assert "They are the same dataset" in difference_markdown(found)


def test_the_kolmogorov_smirnov_distance_is_scipys() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        a, b = rng.integers(0, 12, rng.integers(1, 40)), rng.integers(2, 15, rng.integers(1, 40))
        spreads = [
            Spread({int(k): int(n) for k, n in zip(*np.unique(x, return_counts=True), strict=True)})
            for x in (a, b)
        ]
        assert kolmogorov_smirnov(*spreads) == pytest.approx(ks_2samp(a, b).statistic)


def test_total_variation_is_half_the_summed_difference_of_shares() -> None:
    assert total_variation({"a": 1, "b": 1}, {"a": 1}) == pytest.approx(0.5)
    assert total_variation({"a": 7}, {"b": 3}) == 1
    assert total_variation({}, {"b": 3}) is None


def test_a_comparison_is_written_as_markdown_and_json(
    curated: Path, changed: Path, tmp_path: Path
) -> None:
    found = difference(curated, changed)
    text, data = write_difference(found, tmp_path / "diff")
    assert json.loads(data.read_text())["only_in_b"] == ["Z-9"]
    assert "Only in B (1): Z-9." in text.read_text()


def test_a_comparison_into_a_file_is_refused(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(InputError, match="is a file; a comparison needs a folder"):
        write_difference(difference(curated, curated), tmp_path / "f")


# --- the command


def medfinder(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from medfinder.cli.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_the_card_and_names_what_comes_next(curated: Path) -> None:
    done = medfinder("card", curated)
    assert done.returncode == 0, done.stderr
    assert "120 studies of 80 patients" in done.stderr
    assert "card.html" in done.stderr
    assert (curated / "card.md").is_file()


def test_the_command_compares_on_stdout(curated: Path, changed: Path) -> None:
    done = medfinder("card", "--diff", curated, changed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Two datasets compared")


def test_the_command_compares_as_json(curated: Path, changed: Path) -> None:
    done = medfinder("card", "--diff", curated, changed, "--json")
    assert json.loads(done.stdout)["n_common_studies"] == 119


def test_the_command_without_a_folder_says_what_to_give() -> None:
    done = medfinder("card")
    assert done.returncode == 2
    assert "Give STUDIES, or --diff A B" in done.stderr


@pytest.mark.slow
def test_the_numbers_of_100_000_studies_take_bounded_memory(tmp_path: Path) -> None:
    some = phantom_studies(500)
    made = [
        dataclasses.replace(some[k % 500], study_id=f"S-{k:06d}", patient_id=f"P-{k // 2:06d}")
        for k in range(100_000)
    ]
    folder = write_curated(tmp_path / "c", made)
    code = (
        "import resource, sys; from pathlib import Path;"
        "from medfinder.curate.statistics import statistics;"
        "import pyarrow.parquet;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print(statistics(Path(sys.argv[1])).n_studies,"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    n, more = map(int, done.stdout.split())
    assert n == 100_000
    assert more * (1 if sys.platform == "darwin" else 1024) < 300e6
