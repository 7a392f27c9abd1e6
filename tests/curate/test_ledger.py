"""What a ledger remembers, and what it does not believe."""

from pathlib import Path

from medfinder.curate.ledger import Ledger

SEEN = {"hash": "abc", "shape": [3, 4, 5]}


def test_what_was_seen_of_an_item_is_remembered_while_its_mark_is_the_same(tmp_path: Path) -> None:
    with Ledger(tmp_path, "key") as ledger:
        ledger.keep_inspected("a.nii", "m1", SEEN)
    with Ledger(tmp_path, "key") as ledger:
        assert ledger.inspected("a.nii", "m1") == SEEN
        assert ledger.inspected("a.nii", "m2") is None


def test_what_the_disk_has_changed_is_read_again(tmp_path: Path) -> None:
    with Ledger(tmp_path, "key") as ledger:
        ledger.keep_inspected("a.nii", "m1", SEEN)
    path = tmp_path / "private" / "ledger.db"
    data = path.read_bytes()
    assert data.count(b'"abc"') == 1
    path.write_bytes(data.replace(b'"abc"', b'"abd"'))
    with Ledger(tmp_path, "key") as ledger:
        assert ledger.inspected("a.nii", "m1") is None
        ledger.keep_inspected("a.nii", "m1", SEEN)
        assert ledger.inspected("a.nii", "m1") == SEEN
