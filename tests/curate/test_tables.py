from pathlib import Path

import pytest

from medfinder.curate.tables import read_table
from medfinder.errors import InputError, UnknownName


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"file,text\nct.nii,hola\n"),
        ("a.csv", b"file;text\r\nct.nii;hola\r\n"),
        ("a.tsv", b"file\ttext\nct.nii\thola\n"),
        ("a.json", b'[{"file": "ct.nii", "text": "hola"}]'),
        ("a.jsonl", b'{"file": "ct.nii", "text": "hola"}\n\n'),
        ("a.csv", "file,text\nct.nii,hola\n".encode("utf-16")),
        ("a.csv", b"\xef\xbb\xbffile,text\nct.nii,hola\n"),
        ("a.csv", b"Filename,Report_en\nct.nii,hola\n"),
    ],
)
def test_a_table_is_read_whatever_its_format(tmp_path: Path, name: str, content: bytes) -> None:
    table = read_table(write(tmp_path, name, content))
    assert [table.get(r, "file") for r in table.rows] == ["ct.nii"]
    assert [table.get(r, "text") for r in table.rows] == ["hola"]


def test_windows_spanish_keeps_its_accents(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", "file,text\na,nódulo\n".encode("cp1252")))
    assert table.get(table.rows[0], "text") == "nódulo"


def test_a_quoted_report_with_newlines_is_one_cell(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", b'file,text\na,"one\ntwo, three"\n'))
    assert table.get(table.rows[0], "text") == "one\ntwo, three"


def test_nan_is_nothing_and_a_column_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", b"file,age\na,nan\n"))
    assert table.get(table.rows[0], "age") == ""
    assert table.get(table.rows[0], "sex") == ""


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"file,text\n", "no rows"),
        ("a.csv", b"", "no rows"),
        ("a.xyz", b"file", r"ends in \.csv, \.tsv, \.xlsx, \.json or \.jsonl, got '.xyz'"),
        ("a.json", b"{", "not JSON"),
        ("a.jsonl", b"{", "not JSONL"),
        ("a.json", b'{"a": 1}', "a list of objects"),
    ],
)
def test_what_is_not_a_table_is_named(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text):
        read_table(write(tmp_path, name, content))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no table"):
        read_table(tmp_path / "none.csv")


def test_an_unknown_text_column_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"file,report_text\na,b\n")
    with pytest.raises(UnknownName, match="Did you mean 'report_text'"):
        read_table(path, text="report_txt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[" * 100_000, "nests too deep"),
        ("a.json", b'[{"file": ' + b"9" * 5000 + b"}]", "not JSON"),
        ("a.csv", b"\xff\xfef\0i", "no rows"),
    ],
)
def test_a_broken_table_is_an_error_of_input(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_table(write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"file,text,report\na,,nodule\nb,,\n", "nodule"),
        ("a.csv", b"\r\n\nfile,text\na,nodule\n", "nodule"),
        ("a.jsonl", '{"file": "a", "text": "a\u2028b"}\n'.encode(), "a\u2028b"),
        ("a.json", b'[{"file": "a", "text": "no\\ud800dule"}]', "no?dule"),
    ],
)
def test_oddities_of_exports_are_read(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    table = read_table(write(tmp_path, name, content))
    assert table.get(table.rows[0], "text") == text
