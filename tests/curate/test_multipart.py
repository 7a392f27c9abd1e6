from collections.abc import Iterator
from pathlib import Path

import pytest

from medfinder.curate.sources.multipart import boundary_of, write_parts
from medfinder.curate.sources.remote import Refused, Stalled

PARTS = [
    b"one",
    b"",
    b"\r\n--",
    b"\r\n--bound",
    b"--boundar\r\n\r\n" * 9,
    b"\0" * 1000,
    b"last\r\n",
]


def body(parts: list[bytes] = PARTS, head: bytes = b"Content-Type: a/b\r\n") -> bytes:
    joined = b"".join(b"\r\n--boundary\r\n" + head + b"\r\n" + part for part in parts)
    return joined + b"\r\n--boundary--\r\n"


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


def read(content: bytes, size: int, path: Path) -> list[bytes]:
    return [p.read_bytes() for p in write_parts(cut(content, size), b"--boundary", path / "part")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 64, 10**6])
@pytest.mark.parametrize("head", [b"", b"Content-Type: a/b\r\nX: y\r\n"])
def test_parts_come_out_as_they_went_in_however_the_body_is_cut(
    tmp_path: Path, size: int, head: bytes
) -> None:
    assert read(body(head=head), size, tmp_path) == PARTS


@pytest.mark.parametrize("before", [b"", b"\r\n", b"a preamble\r\nof two lines\r\n"])
def test_what_comes_before_the_first_boundary_and_after_the_last_is_left_out(
    tmp_path: Path, before: bytes
) -> None:
    content = before + body().removeprefix(b"\r\n") + b"an epilogue"
    assert read(content, 5, tmp_path) == PARTS


def test_wherever_a_body_breaks_off_no_part_is_half(tmp_path: Path) -> None:
    content = body([b"first" * 5, b"second" * 5])
    whole = len(content) - len(b"--\r\n")
    for end in range(whole + 2):
        seen = []
        with pytest.raises(Stalled, match="its answer broke off"):
            for path in write_parts([content[:end]], b"--boundary", tmp_path / "part"):
                seen.append(path.read_bytes())  # noqa: PERF401 (what came before the error)
        assert seen == [b"first" * 5, b"second" * 5][: len(seen)]


def test_a_part_that_is_shorter_than_it_says_is_not_taken(tmp_path: Path) -> None:
    assert read(body([b"four"], b"Content-Length: 4\r\n"), 9, tmp_path) == [b"four"]
    with pytest.raises(Stalled, match="a part announced 5 bytes and had 4"):
        read(body([b"four"], b"content-length: 5\r\n"), 9, tmp_path)


def test_a_body_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a part without an end of its head"):
        read(b"--boundary\r\n" + b"x" * 10**6, 1000, tmp_path)
    with pytest.raises(Refused, match="a boundary with other characters after it"):
        read(b"--boundary extra\r\n\r\nx", 1000, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/related; type=a/b; boundary=x.y",
        'multipart/related; Boundary="x.y"; type="a/b"',
        "multipart/related;boundary=x.y",
    ],
)
def test_the_boundary_is_read_quoted_or_not(kind: str) -> None:
    assert boundary_of(kind) == b"--x.y"


def test_a_multipart_without_a_boundary_is_refused() -> None:
    with pytest.raises(Refused, match="without a boundary"):
        boundary_of("multipart/related; type=a/b")
