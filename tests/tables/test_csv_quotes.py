"""Quoted cells of a CSV that are not closed are an error that names their row; all proper files are left as they are."""

import csv
import io
import random

import pytest

from dubito._check import DataError
from dubito.tables.csv_quotes import CheckedFile, QuoteScanner

ENDLESS, LATE = "is never closed", "ends on a later line"


def problem(data, size):
    """The message about ``data`` read ``size`` bytes at a time, or None."""
    scanner = QuoteScanner("t.csv", ",")
    try:
        for start in range(0, len(data), size):
            scanner.feed(data[start : start + size])
        scanner.close()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 2**20])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'a,b\n1,"x\n2,y\n3,z\n', f'row 0 with "x {ENDLESS}'),
        (b'a,b\n1,x\n\n2,"y z\n3,z\n', f'row 1 with "y z {ENDLESS}'),
        (b'a,b\r\n1,x\r\n2,"y\r\n3,z', f'row 1 with "y {ENDLESS}'),
        (b'a,b\r1,2\r3,"4\r5,6', f'row 1 with "4 {ENDLESS}'),
        (b'"a,b\n1,2\n', f'the header with "a,b {ENDLESS}'),
        (b'a,b\n"p\nq",1\n2,"x""\n3,z\n', f'row 1 with "x"" {ENDLESS}'),
        (b'a,b\n1,"x\n2,y\n3,"z\n', f'row 0 with "x {LATE}'),
        (b'a,b\n1,"x\n2,"y"\n3,z\n', f'row 0 with "x {LATE}'),
        (b'a,b\n5" pipe,1\n2,"x\n3,"y"\n', f'row 1 with "x {LATE}'),
    ],
)
def test_scanner_names_the_row_of_a_cell_that_swallows_others(data, words, size):
    assert f"t.csv: the quoted cell that begins in {words}" in (problem(data, size) or "")


@pytest.mark.parametrize("size", [1, 2, 3, 2**20])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a,b\n1,2\n",
        b'a,b\n1,5" pipe\n2,y\n',
        b'a,b\n1,"x"y\n2,z\n',
        b'a,b\n1, "x"\n2,"y" \n3,"a""b"\n',
        b'"a\nb",c\n1,2\n',
        b'a,b\n"",""\n"""",1\n"x"""',
        b'a,b\n1,"first line\nsecond, ""quoted"" line"\n',
    ],
)
def test_scanner_accepts_proper_cells(data, size):
    assert problem(data, size) is None


def test_scanner_accepts_what_a_writer_writes():
    rng = random.Random(0)
    for _ in range(2000):
        rows = [["".join(rng.choices('ab",\n\r ', k=rng.randint(0, 6))) for _ in range(3)] for _ in range(5)]
        text = io.StringIO()
        style = {
            "quoting": rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
            "lineterminator": rng.choice(["\n", "\r\n"]),
        }
        csv.writer(text, **style).writerows(rows)
        assert problem(text.getvalue().encode(), rng.choice([1, 2, 7, 2**20])) is None


def test_checked_file_ends_at_an_open_cell_and_keeps_the_error():
    good = io.BufferedReader(CheckedFile(io.BytesIO(b'a\n"b\nc"\n' * 999), "t.csv", ","))
    assert good.read() == b'a\n"b\nc"\n' * 999 and good.raw.error is None
    bad = io.BufferedReader(CheckedFile(io.BytesIO(b'a\n"b\nc\n'), "t.csv", ","))
    assert bad.read() == b'a\n"b\nc\n'
    assert ENDLESS in str(bad.raw.error)
