"""Tables of text are the same table in every dialect, encoding, line ending and packing, and ambiguous cells are errors."""

import contextlib
import datetime
import gzip
import io
import os
import sys
import threading
import warnings
import zipfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest

from dubito._check import DataError
from dubito.tables import files, reading
from dubito.tables.dialects import Dialect, find_decimal, find_separator
from dubito.tables.schema import Schema
from dubito.tables.spreadsheets import sheet_as_csv

MARKS = {",", ";", "\t", "|"}
ROWS = {"x": [0.5, -1.25, None], "n": [1, 2, 3], "town": ["Zürich", "a, b; c|d", 'say "é"'], "on": ["1.2.2024"] * 3}


def text(separator=",", decimal=".", end="\n"):
    """The table ``ROWS`` as text."""
    numbers = [value if value is None else str(value).replace(".", decimal) for value in ROWS["x"]]
    quoted = lambda cell: '"' + cell.replace('"', '""') + '"'  # noqa: E731
    columns = [
        ["x", *(("" if v is None else quoted(v) if separator == decimal else v) for v in numbers)],
        ["n", *map(str, ROWS["n"])],
        ["town", *map(quoted, ROWS["town"])],
        ["on", *ROWS["on"]],
    ]
    return "".join(separator.join(row) + end for row in zip(*columns, strict=True))


def both_ways(path, dialect=None):
    """The table as ``fit`` reads it, which must be as ``predict`` reads it."""
    fitted = reading.read_table(path, (), None, dialect)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant columns
        schema = Schema.fit(fitted)
    again = Dialect(*(getattr(dialect, name, None) for name in ("separator", "decimal", "encoding", "sheet")))
    (block, _), *rest = files.read_blocks(path, files.FileColumns(schema), dialect=again)
    assert not rest and block.to_pydict() == fitted.to_pydict()
    return fitted.to_pydict()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", ","), ("|", ",")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"])
def test_a_table_is_read_alike_in_every_dialect(tmp_path, separator, decimal, encoding, end):
    path = tmp_path / "t.csv"
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + text(separator, decimal, end)).encode(encoding))
    dialect = Dialect()
    assert both_ways(path, dialect) == ROWS
    assert dialect.found["separator"] == separator and dialect.found["decimal"] == decimal
    said = " ".join(dialect.notes)
    assert ("with the separator" in said) == (separator != ",")
    assert ("with decimal commas in 'x'; " in said) == (decimal == ",")
    assert ("windows-1252" in said) == (encoding == "latin-1") == ("--encoding" in said)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.txt.gz", "t.csv"])
def test_a_packed_table_is_read_alike(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text(";", ",").encode()))
    assert both_ways(path) == ROWS
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert reading.read_table("-").to_pydict() == ROWS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="its gzip data is damaged or cut off"):
        reading.read_table(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["pipe", "pipe.csv"])
def test_a_named_pipe_is_read_alike(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(gzip.compress(text().encode())))
    writer.start()
    assert reading.read_table(path).to_pydict() == ROWS
    writer.join()


def test_named_separator_decimal_and_encoding_win(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('a:b\n"1,234":б\n2:и\n'.encode("cp1251"))
    named = Dialect(":", ",", "cp1251")
    assert both_ways(path, named) == {"a": [1.234, 2], "b": ["б", "и"]} and named.notes == []
    path.write_bytes(text(",", ",").encode())  # quoted decimal commas between commas
    assert both_ways(path, Dialect(decimal=",")) == ROWS
    path.write_bytes("a;b\n1,5;2\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="--encoding utf-16-le"):
        reading.read_table(path)
    assert reading.read_table(path, dialect=Dialect(encoding="utf-16-le")).to_pydict() == {"a": [1.5], "b": [2]}
    with pytest.raises(DataError, match="is not text in ascii"):
        path.write_bytes("é\n1\n".encode())
        reading.read_table(path, dialect=Dialect(encoding="ascii"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"separator": "::"}, "--separator must be one character"),
        ({"separator": "a"}, "--separator must be one character"),
        ({"decimal": ";"}, "--decimal must be"),
        ({"separator": ",", "decimal": ","}, "both ','"),
        ({"encoding": "klingon"}, "--encoding 'klingon' is unknown"),
        ({"encoding": "base64"}, "--encoding 'base64' is unknown"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Dialect(**options)


@pytest.mark.parametrize(
    ("head", "default", "separator"),
    [
        ("a;b\n1,5;2,5\n", ",", ";"),
        ("a\tb\n1\t2\n", ",", "\t"),
        ("a,b\n1,2\n", "\t", ","),
        ('a,"b;c;d"\n1,2\n3,4\n', ",", ","),  # inside quotes on the first line
        ('"a;b";"c,d"\n1;2\n', ",", ";"),
        ("a;b\n", ",", ";"),  # a header only
        ("price\n1,5\n2,5\n", ",", ","),  # one column
        ("a|b\n1\n2\n", ",", ","),
        ("id,tags\n1,x;y;z\n2,x\n", ",", ","),
        ("name;note\nx;one, two\ny;three, four, five\n", ",", ";"),
        ("on;x\n3,1,2024;1\n4,1,2024;2\n", ",", ";"),
        ("a,b\n1,2,3\n1,2,3\n", ",", ","),  # ragged: the reader's error names the row
        ("a;b;c\n1;2;3\n1;2\n3;4;5\n", ",", ";"),
        ("", ",", ","),
    ],
)
def test_find_separator_reads_the_first_lines(head, default, separator):
    assert find_separator(head, default, MARKS) == separator


def test_find_separator_prefers_the_columns_of_the_model():
    head = "a;b,c;d\n1;2,3;4\n"
    assert find_separator(head, ",", MARKS) == ";" and find_separator(head, ",", MARKS, ["a;b", "c;d"]) == ","


@pytest.mark.parametrize(
    ("head", "separator", "decimal"),
    [
        ("a;b\n1,5;x\n2;y\n", ";", ","),
        ("a;b\n1,234;x\n", ";", "."),  # may be thousands
        ("a;b\n1,234;0,5\n", ";", ","),
        ("a;b\n1,2,2024;x\n", ";", "."),  # a date
        ("a;b\nx, 5;1.5\n", ";", "."),
        ('a,b\n"1,5",2\n', ",", "."),  # only --decimal says so
        ("a\n", ";", "."),
    ],
)
def test_find_decimal_needs_a_column_of_numbers(head, separator, decimal):
    assert find_decimal(head, separator)[0] == decimal


def test_what_the_fit_found_decides_what_a_file_leaves_open(tmp_path):
    path = tmp_path / "t.csv"
    schema = Schema.fit(pa.table({"a": [0.5, 1.5], "b": ["x", "y"]}))
    path.write_text("a;b\n1,234;x\n")
    columns = files.FileColumns(schema)
    with pytest.raises(DataError, match=r"row 0 has '1,234'.*use --decimal ,"):
        list(files.read_blocks(path, columns))
    ((block, _),) = files.read_blocks(path, columns, dialect=Dialect(fitted={"decimal": ",", "encoding": 3}))
    assert block.to_pydict() == {"a": [1.234], "b": ["x"]}
    path.write_text("a,b\n1.234,x\n")
    ((block, _),) = files.read_blocks(path, columns, dialect=Dialect(fitted={"decimal": ",", "separator": ";"}))
    assert block.to_pydict() == {"a": [1.234], "b": ["x"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a;b\n0,5;1.234\n1,5;2.345\n", "'b' has only numbers, but '1.234' in row 0 .* use --decimal ."),
        ("a;b\n1,234;x\n5,678;y\n", "'a' has only numbers, but '1,234' in row 0 .* use --decimal ,"),
        ("a;b\n0,5;1,5\n1,5;about 3\n2,5;0,5\n", "'b' has numbers with decimal commas, but 'about 3' in row 1"),
        ("a;b\n0,5;1,5\n1,5;1.234,5\n2,5;0,5\n", "'b' has numbers with decimal commas, but '1.234,5' in row 1"),
        ("a;b\n0,5;x\n1,5;1\n2,5;y\n", None),
        ("a;b\n0,5;1,5 m\n1,5;2,5 m\n", None),
    ],
)
def test_cells_among_numbers_are_named(tmp_path, data, words):
    path = tmp_path / "t.csv"
    path.write_text(data)
    dialect = Dialect()
    table = reading.read_table(path, dialect=dialect)
    with contextlib.nullcontext() if words is None else pytest.raises(DataError, match=words):
        reading.check_decimals(path, table, dialect.found["decimal"])


def test_missing_values_and_dots_among_decimal_commas_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b\n0,5;0.25\n?;1\nNA;2\n")
    assert reading.read_table(path).to_pydict() == {"a": [0.5, None, None], "b": [0.25, 1, 2]}


def test_a_byte_order_mark_before_a_quote_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeff"a b";"c;d"\n1;2\n3;4\n'.encode())
    assert both_ways(path) == {"a b": [1, 3], "c;d": [2, 4]}


def test_a_late_byte_of_an_older_encoding_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,plain\n" * 400_000 + b"2,\x80\xe9\x81\n")
    dialect = Dialect()
    assert (
        reading.read_table(path, dialect=dialect)["b"][-1].as_py() == "€é\x81"
        and "0x80 at position" in dialect.notes[0]
    )


def test_resolve_names_splits_at_commas_and_suggests():
    assert files.resolve_names(["a, b", "c,d", "a"], ["a", "b", "c,d"], "t") == ["a", "b", "c,d"]
    with pytest.raises(DataError, match=r"--drop: t has no column 'tonw'; did you mean 'town'\?"):
        files.resolve_names(["tonw"], ["town"], "--drop: t")


def test_kept_cells_stay_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,x\n007,1\nNA,2\n"",3\n')
    schema = Schema.fit(pa.table({"x": [0.5, 1.5]}))
    blocks = list(files.read_and_keep(path, files.FileColumns(schema), ["id"], rows=2))
    assert [kept["id"].to_pylist() for _, kept, _ in blocks] == [["007", "NA"], [None]]
    assert [start for *_, start in blocks] == [0, 2]


def test_kept_columns_of_parquet_are_plain(tmp_path):
    path = tmp_path / "t.parquet"
    kind = pa.array(["b", "a", None]).dictionary_encode()
    pa.parquet.write_table(pa.table({"x": [1.0, 2.0, 3.0], "kind": kind, "many": [[1]] * 3}), path)
    columns = files.FileColumns(Schema.fit(pa.table({"x": [0.5, 1.5]})))
    blocks = [kept for _, kept, _ in files.read_and_keep(path, columns, ["kind"], rows=2)]
    assert pa.concat_tables(blocks).to_pydict() == {"kind": ["b", "a", None]}
    with pytest.raises(DataError, match="column 'many' has the type list"):
        next(files.read_and_keep(path, columns, ["many"]))


def test_other_columns_are_noted_once(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("more,y,id,x\n" + "1,2,3,4\n" * 5)
    schema = Schema.fit(pa.table({"x": [0.5, 1.5]}))
    dialect = Dialect()
    blocks = list(files.read_blocks(path, files.FileColumns(schema, "y", ["id"]), rows=2, dialect=dialect))
    assert [block.column_names for block, _ in blocks] == [["x"]] * 3
    assert dialect.notes == ["Ignored columns that were not in fit: 'more'."]


class Book:
    """A stand-in for a workbook of python-calamine."""

    sheet_names = ("first", "second")

    @classmethod
    def from_filelike(cls, file):
        assert file.read(4) == b"PK\x03\x04"
        return cls()

    def get_sheet_by_name(self, name):
        day, hour = datetime.date(2024, 1, 31), datetime.datetime(2024, 1, 31, 12)
        rows = [
            ["x", "n", "town", "on", "at", "ok"],
            [0.5, 1.0, "a,b", day, hour, True],
            [""] * 6,
            [2.0, 3.0, "", day, hour, False],
        ]
        return SimpleNamespace(to_python=lambda: rows if name == "first" else [["z"], [1.0]])


@pytest.fixture
def calamine(monkeypatch):
    module = SimpleNamespace(CalamineWorkbook=Book, CalamineError=OSError)
    monkeypatch.setitem(sys.modules, "python_calamine", module)


def test_a_sheet_is_read_as_a_table(tmp_path, calamine):
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK\x03\x04")
    assert sheet_as_csv(b"PK\x03\x04", "t", None).decode().splitlines() == [
        "x,n,town,on,at,ok",
        '0.5,1,"a,b",2024-01-31,2024-01-31T12:00:00,true',
        "2,3,,2024-01-31,2024-01-31T12:00:00,false",
    ]
    table = reading.read_table(path)
    assert table["x"].to_pylist() == [0.5, 2] and table["town"].to_pylist() == ["a,b", None]
    assert reading.read_table(path, dialect=Dialect(sheet="second")).to_pydict() == {"z": [1]}
    with pytest.raises(DataError, match=r"no sheet 'secnd'; did you mean 'second'"):
        reading.read_table(path, dialect=Dialect(sheet="secnd"))
    with pytest.raises(DataError, match="Leave out --separator"):
        reading.read_table(path, dialect=Dialect(separator=";"))


def test_a_sheet_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ImportError, match=r"pip install 'dubito\[xlsx\]'"):
        reading.read_table(path)


def test_options_that_do_not_apply_are_refused(tmp_path):
    csv, parquet = tmp_path / "t.csv", tmp_path / "t.parquet"
    csv.write_text("a\n1\n")
    pa.parquet.write_table(pa.table({"a": [1]}), parquet)
    with pytest.raises(DataError, match="Leave out --sheet"):
        reading.read_table(csv, dialect=Dialect(sheet="x"))
    with pytest.raises(DataError, match="Leave out --encoding"):
        reading.read_table(parquet, dialect=Dialect(encoding="latin-1"))
    (tmp_path / "wrong.csv").write_bytes(parquet.read_bytes())
    with pytest.raises(DataError, match="is a Parquet file"):
        reading.read_table(tmp_path / "wrong.csv")


def test_a_real_sheet_is_read_as_a_table(tmp_path):
    pytest.importorskip("python_calamine")
    main, office = (
        "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
        "http://schemas.openxmlformats.org/officeDocument/2006",
    )
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"

    def cell(place, value):
        return (
            f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
            if isinstance(value, str)
            else f'<c r="{place}"><v>{value}</v></c>'
        )

    grid = [["x", "town"], [0.5, "Bern, CH"], [2, "007"]]
    rows = "".join(
        f'<row r="{r}">{"".join(cell("AB"[c] + str(r), value) for c, value in enumerate(row))}</row>'
        for r, row in enumerate(grid, 1)
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        f'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
        f'ContentType="{kind}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
        f'ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}/relationships"><sheets>'
        f'<sheet name="one" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/relationships/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
    }
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(path, "w") as book:
        for name, part in parts.items():
            book.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + part)
    assert reading.read_table(path).to_pydict() == {"x": [0.5, 2], "town": ["Bern, CH", "007"]}
    with pytest.raises(DataError, match="The sheets are 'one'"):
        reading.read_table(path, dialect=Dialect(sheet="two"))
    path.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(DataError, match="cannot be read"):
        reading.read_table(path)


@pytest.mark.parametrize("encoding", ["cp1251", "utf-16-le"])
def test_the_encoding_of_the_fit_reads_bytes_that_are_not_utf_8(tmp_path, encoding):
    path = tmp_path / "t.csv"
    dialect = Dialect(fitted={"encoding": encoding})
    path.write_bytes("a,b\n1,бег\n".encode(encoding))
    assert reading.read_table(path, dialect=dialect).to_pydict() == {"a": [1], "b": ["бег"]}
    assert dialect.notes == [] and dialect.found["encoding"] == encoding
    path.write_bytes("a,b\n1,бег\n".encode())
    assert reading.read_table(path, dialect=dialect).to_pydict() == {"a": [1], "b": ["бег"]}
    assert dialect.found["encoding"] == "utf-8"
