import datetime
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest

from medfinder.curate import tables
from medfinder.curate.tables import RowReader, iter_rows, parse_list, plain_cell, read_table
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


COLUMNS = {"id": ("ReportID", "study"), "text": ("Report",), "path": ("path", "ct_path")}


def cells(path: Path) -> list[dict[str, str]]:
    return [dict(row.cells) for row in RowReader(path, COLUMNS, ["id", "text"])]


def sheet(folder: Path, *rows: tuple[object, ...]) -> Path:
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    for row in rows:
        page.append(row)
    book.save(folder / "t.xlsx")
    return folder / "t.xlsx"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "ReportID,Report,path\ne1,nódulo,x\n".encode()),
        ("a.csv", b"\xef\xbb\xbf" + "ReportID;Report;path\r\ne1;nódulo;x\r\n".encode()),
        ("a.csv", "ReportID,Report,path\ne1,nódulo,x\n".encode("cp1252")),
        ("a.csv", "ReportID,Report,path\ne1,nódulo,x\n".encode("utf-16")),
        ("a.csv", "ReportID,Report,path\re1,nódulo,x\r".encode()),
        ("a.csv", "\r\n report_id , REPORT ,ct path\ne1,n\0ódulo,x\n\n\n".encode()),
        ("a.tsv", "ReportID\tReport\tpath\ne1\tnódulo\tx\n".encode()),
        ("a.jsonl", '{"ReportID": "e1", "Report": "nódulo", "path": "x"}\n'.encode()),
        ("a.json", '[{"ReportID": "e1", "Report": "nódulo", "path": "x"}]'.encode()),
    ],
)
def test_a_table_is_read_row_by_row_whatever_its_format(
    tmp_path: Path, name: str, content: bytes
) -> None:
    assert cells(write(tmp_path, name, content)) == [{"id": "e1", "text": "nódulo", "path": "x"}]


def test_a_spreadsheet_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [("ReportID", "Report", "path"), ("e1", "one\ntwo", None), (None,), (2.0, 3.5, True)]
    assert cells(sheet(tmp_path, *rows)) == [
        {"id": "e1", "text": "one\ntwo", "path": ""},
        {"id": "2", "text": "3.5", "path": "True"},
    ]


def test_a_spreadsheet_s_first_sheet_with_rows_is_read(tmp_path: Path) -> None:
    path = sheet(tmp_path)
    book = openpyxl.load_workbook(path)
    page = book.create_sheet()
    page.append(("ReportID", "Report"))
    page.append(("e1", datetime.date(2020, 3, 1)))
    book.save(path)
    assert cells(path)[0]["text"] == "2020-03-01"


def test_a_folder_s_table_may_be_a_spreadsheet(tmp_path: Path) -> None:
    table = read_table(sheet(tmp_path, ("file", "text"), ("ct.nii", "nodule")))
    assert table.get(table.rows[0], "text") == "nodule"


def test_one_line_of_another_encoding_does_not_spoil_the_others(tmp_path: Path) -> None:
    content = "ReportID,Report\ne1,nódulo\n".encode() + "e2,opacidad difusa añosa\n".encode(
        "cp1252"
    )
    assert [c["text"] for c in cells(write(tmp_path, "a.csv", content))] == [
        "nódulo",
        "opacidad difusa añosa",
    ]


def test_of_two_columns_the_first_filled_cell_of_each_row_counts(tmp_path: Path) -> None:
    content = b"ReportID,Report,ct_path,path\ne1,x,a,nan\ne2,x,b,c\n"
    assert [c["path"] for c in cells(write(tmp_path, "a.csv", content))] == ["a", "c"]


def test_missing_columns_are_named_with_the_found_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"Study name,words,ct_path\na,b,c\n")
    with pytest.raises(
        InputError,
        match="lacks columns: expected ReportID, Report; found: Study name, words, ct_path",
    ) as error:
        cells(path)
    assert error.value.rule == "missing-column"


def test_a_table_without_a_header_does_not_spill_a_report(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"e1,a long report that is nobody's business\ne2,x\n")
    with pytest.raises(InputError, match="lacks columns") as error:
        cells(path)
    assert "business" not in str(error.value)


def test_cells_too_many_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"ReportID,Report\ne1,a,b,c\ne2,a,,\ne3\n")
    rows = list(RowReader(path, COLUMNS, ["id"]))
    assert [(row.number, row.n_extra) for row in rows] == [(2, 2), (3, 0), (4, 0)]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('=HYPERLINK("http://x","y")', 'HYPERLINK("http://x","y")'),
        ("=1+1", "1+1"),
        ("+cmd|' /C calc'!A0", "cmd|' /C calc'!A0"),
        ("-2+3+cmd|' /C calc'!A0", "2+3+cmd|' /C calc'!A0"),
        ("@SUM(1+1)*cmd|' /C calc'!A0", "SUM(1+1)*cmd|' /C calc'!A0"),
        ("\t=1+1", "1+1"),
        ("'=1+1", "1+1"),
        ("-SUM(A1)", "SUM(A1)"),
        ("==+=1", "1"),
    ],
)
def test_a_formula_loses_what_would_run_it_and_is_told(cell: str, text: str) -> None:
    assert plain_cell(cell) == (text, True)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("- nodulo (5 mm) . - derrame", "- nodulo (5 mm) . - derrame"),
        ("-nodulo(s) calcificados", "-nodulo(s) calcificados"),
        ("-5", "-5"),
        ("+", "+"),
        ("'- derrame", "- derrame"),
        ("'quoted'", "'quoted'"),
        ("a = b", "a = b"),
        (" x ", "x"),
        ("NaN", ""),
        ("#REF!", ""),
        ("", ""),
    ],
)
def test_what_people_write_is_no_formula(cell: str, text: str) -> None:
    assert plain_cell(cell) == (text, False)


def test_a_table_held_whole_tells_its_formulas_too(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", b"file,text\na,=1+1\nb,x\n"))
    assert [table.formulas(row) for row in table.rows] == [("text",), ()]
    assert table.get(table.rows[0], "text") == "1+1"


@pytest.mark.parametrize(
    ("cell", "entries"),
    [
        (
            "['', 'laminar atelectasis', ' pleural effusion', 'COVID 19']",
            ("laminar atelectasis", "pleural effusion", "COVID 19"),
        ),
        ("[C0032225,,C0018800]", ("C0032225", "C0018800")),
        ("[,C0032225]", ("C0032225",)),
        ("[]", ()),
        ("['']", ()),
        ("", ()),
        ("nan", ()),
        ("['a', nan, None]", ("a",)),
        ("""["crohn's disease", 'b']""", ("crohn's disease", "b")),
        ("['crohn's disease', 'b']", ("crohn's disease", "b")),
        ("['a, b', 'c']", ("a, b", "c")),
        ("['a'\t 'b']", ("a", "b")),
        ("[['a', 'b'], ['c']]", ("a", "b", "c")),
        ("('a', 'b')", ("a", "b")),
        ("normal", ("normal",)),
        ("a, b", ("a", "b")),
        ("['a, 'b", ("a", "b")),
        ('["a", b]', ("a", "b")),
    ],
)
def test_a_list_written_as_text_is_read(cell: str, entries: tuple[str, ...]) -> None:
    assert parse_list(cell) == entries


@pytest.mark.parametrize(
    "cell", ["'" * 5000, "['a," * 5000, "[" * 5000, "'a,'b" * 3000, "," * 10**6]
)
def test_a_hostile_list_takes_no_time(cell: str) -> None:
    start = time.monotonic()
    parse_list(cell)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"plain text"])
def test_a_broken_spreadsheet_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"not a readable \.xlsx workbook \(BadZipFile\)"):
        cells(write(tmp_path, "a.xlsx", content))


def test_a_zip_that_is_no_workbook_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("x.txt", "x")
    with pytest.raises(InputError, match=r"not a readable \.xlsx workbook"):
        cells(tmp_path / "a.xlsx")


def test_a_spreadsheet_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sheet(tmp_path, ("ReportID", "Report"), ("e1", "x"))
    monkeypatch.setattr(tables, "MAX_SHEET_BYTES", 100)
    with pytest.raises(InputError, match=r"unpacks to \d+ bytes, expected at most 100"):
        cells(path)


def test_a_quote_that_never_ends_is_named(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "a.csv", b'ReportID,Report\ne1,"' + b"x," * 2**23 + b"\n")
    with pytest.raises(
        InputError, match=r"The table is not CSV: field larger .*, up to line 2\. Look for a quote"
    ):
        cells(path)


def test_a_quote_that_swallows_rows_is_told(tmp_path: Path) -> None:
    swallowed = b"".join(b"e%d,nodule\n" % n for n in range(20_000))
    path = write(tmp_path, "a.csv", b'ReportID,Report\ne,"' + swallowed + b'x"\nf,y\n')
    assert [row.n_extra for row in RowReader(path, COLUMNS, ["id"])] == [1, 0]


def test_rows_come_under_the_table_s_own_names_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"A b,c,c\n1,,=2\n")
    assert list(iter_rows(path)) == [{"A b": "1", "c": "=2"}]
