"""Text → sentences as offsets."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfinder.report.sentences import sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("A 1.2 cm nodule. Stable.", ["A 1.2 cm nodule.", "Stable."]),
        ("In the 7th-8th space. No air.", ["In the 7th-8th space.", "No air."]),
        ("derrame pleural . nodulo de 8 mm .", ["derrame pleural .", "nodulo de 8 mm ."]),
        ("A node (cyst?) is seen. End.", ["A node (cyst?) is seen.", "End."]),
        ("Edema? Pneumonia? Follow up.", ["Edema?", "Pneumonia?", "Follow up."]),
        ("Seen by Dr. Smith. Normal.", ["Seen by Dr. Smith.", "Normal."]),
        ("It is 2.5 mm. in diameter and round.", ["It is 2.5 mm. in diameter and round."]),
        ("nodule of 2.5 cm. no effusion.", ["nodule of 2.5 cm.", "no effusion."]),
        ("it is 12 mm. in diameter. stable.", ["it is 12 mm. in diameter.", "stable."]),
        ("One\nTwo", ["One", "Two"]),
        ('Normal lungs. " Hiatal hernia " Nodule', ["Normal lungs.", "Hiatal hernia", "Nodule"]),
        ("• One nodule • Two cysts", ["One nodule", "Two cysts"]),
        ("Nothing DETECTED.No nodule", ["Nothing DETECTED.", "No nodule"]),
        ("", []),
        ("  \n ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, parts):
    assert [text[a:b] for a, b in sentences(text)] == parts


@given(st.text(alphabet=st.sampled_from('ab1. ?!\n"•()Z'), max_size=60))
def test_sentences_are_in_order_apart_and_keep_every_letter(text):
    spans = sentences(text)
    assert all(0 <= a < b <= len(text) for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in pairwise(spans))
    kept = "".join(text[a:b] for a, b in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
