"""Names, synonyms, hierarchy and labels."""

import pytest

from medfinder.errors import UnknownName
from medfinder.records import Finding
from medfinder.report.findings import extract_findings
from medfinder.report.vocabulary import LABELS, vocabulary

LABELS_AS_PUBLISHED = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nodules", "nodule"),
        ("Nódulos", "nodule"),
        ("lung nodule", "lung nodule"),
        ("ground-glass opacities", "ground glass pattern"),
        ("vidrio deslustrado", "ground glass pattern"),
        ("derrame pleural", "pleural effusion"),
        ("bulla", "bullas"),
        ("pneumoperitoneum", "pneumoperitoneo"),
        ("COPD", "COPD signs"),
        ("hernia de hiato", "hiatal hernia"),
        ("calcified granulomas", "calcified granuloma"),
        ("pacemaker", "pacemaker"),
    ],
)
def test_a_word_resolves_to_its_canonical_name(text, name):
    assert vocabulary().resolve(text) == name


@pytest.mark.parametrize("label", LABELS_AS_PUBLISHED)
def test_every_published_label_is_a_name(label):
    assert vocabulary().resolve(label) == label.lower()
    assert label.lower() in vocabulary().labels()


def test_every_finding_of_the_vocabulary_resolves_to_itself():
    known = vocabulary()
    assert all(known.resolve(name) == name for name in known.names("finding"))


def test_there_are_more_than_96_findings_with_cuis_for_most_of_the_tree():
    known = vocabulary()
    assert len(known.names("finding")) > 200
    assert sum(known.get(n).cui is not None for n in known.names("finding")) > 140


def test_places_resolve_apart_from_findings():
    assert vocabulary().resolve("lóbulo superior", kind="location") == "upper lobe"
    with pytest.raises(UnknownName):
        vocabulary().resolve("upper lobe")


def test_a_calcified_granuloma_is_a_granuloma():
    assert "calcified granuloma" in vocabulary().descendants("granuloma")
    assert "granuloma" in vocabulary().ancestors("calcified granuloma")


def test_devices_are_below_medical_material():
    below = vocabulary().descendants("medical material")
    assert {"pacemaker", "central venous catheter", "suture material", "stent"} <= below


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(UnknownName, match=r"Unknown finding 'emphysem'\. Did you mean 'emphysema'"):
        vocabulary().get("emphysem")


def test_findings_are_read_in_the_18_label_scheme():
    found = extract_findings("Port catheter. No pleural effusion. A 4 mm nodule.")
    labels = vocabulary().labels_18(found)
    assert [name for name, is_there in labels.items() if is_there] == [
        "medical material",
        "lung nodule",
    ]
    assert tuple(labels) == LABELS


def test_only_present_findings_count_in_the_scheme():
    doubted = Finding(name="emphysema", cui=None, status="uncertain")
    assert not any(vocabulary().labels_18([doubted]).values())


def test_every_parent_and_label_is_itself_a_name():
    known = vocabulary()
    for name in known.names():
        concept = known.get(name)
        above = {*concept.parents, *concept.covers}
        above |= {x for x in (concept.label, concept.same_as) if x}
        assert all(x in known for x in above), name
