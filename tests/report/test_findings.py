"""What a report states: status, side, place and offsets."""

from medfinder.report.findings import extract_findings


def _stated(text: str, language=None) -> set[tuple[str, str]]:
    return {(f.name, f.status) for f in extract_findings(text, language)}


def test_a_denial_covers_the_whole_list():
    assert _stated("No pleural effusion, pneumothorax or consolidation.") == {
        ("pleural effusion", "absent"),
        ("pneumothorax", "absent"),
        ("consolidation", "absent"),
    }


def test_offsets_cut_the_mention_out_of_the_text():
    text = "Heart size is normal. There is a 6 mm nodule in the right upper lobe."
    finding = next(f for f in extract_findings(text) if f.name == "nodule")
    assert text[finding.start : finding.end] == "nodule"
    assert (finding.laterality, finding.status) == ("right", "present")
