"""Dates and times: unambiguous texts only, one encoding for all frames, and the cycles that the rows cover."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dubito import DataError, DataWarning
from dubito.tables import dates
from dubito.tables.schema import Schema

DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29", dt.datetime(2024, 2, 29)),
        (" 1969-12-31T23:59:59.5 ", dt.datetime(1969, 12, 31, 23, 59, 59, 500_000)),
        ("2024-01-31 12:00+02:00", dt.datetime(2024, 1, 31, 10)),
        ("2024-01-31T12:00Z", dt.datetime(2024, 1, 31, 12)),
        ("2024/01/31 12:00", dt.datetime(2024, 1, 31, 12)),
        ("31.1.2024", dt.datetime(2024, 1, 31)),
        ("2024-02", dt.datetime(2024, 2, 1)),
    ],
)
def test_parse_time_reads_unambiguous_notations(text, moment):
    assert dates.parse_time(text) == (moment - dt.datetime(1970, 1, 1)).total_seconds()


@pytest.mark.parametrize(
    "text", ["2024-13-01", "2024-13", "30.2.2024", "01/02/2024", "20240131", "2024", "1.2.24", "May 2024", "-"]
)
def test_parse_time_refuses_other_texts(text):
    found = dates.parse_time(text)
    assert np.isnan(found) if text == "-" else found is None


def test_phases_agree_with_the_calendar():
    days = pd.date_range("1900-01-01", "2100-01-01", freq="D")
    seconds = (days - pd.Timestamp(0)).total_seconds().to_numpy()
    week, year = (dates.phases(seconds, cycle) for cycle in ("week", "year"))
    assert np.unique(np.round(week[days.day_of_week == 0], 9)).size == 1
    calendar = (days.day_of_year - 1) / np.where(days.is_leap_year, 366, 365)
    drift = np.angle(np.exp(2j * np.pi * (year - calendar))) / (2 * np.pi) * 365.25  # in days
    assert np.ptp(drift) < 3  # within two centuries, 1900 and 2100 without a leap day included
    hours = pd.date_range("2024-03-01", periods=48, freq="h")
    day = dates.phases((hours - pd.Timestamp(0)).total_seconds().to_numpy(), "day")
    np.testing.assert_allclose(day, hours.hour / 24, atol=1e-9)
    waves = dates.waves(np.linspace(0, DAY, 1000, endpoint=False), "day")
    np.testing.assert_allclose(waves.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose((waves**2).mean(0), 1, rtol=1e-9)


MOMENTS = [dt.datetime(2023, 1, 1) + dt.timedelta(hours=31 * k) for k in range(400)]


def test_times_of_every_frame_and_of_texts_are_encoded_alike():
    texts = [f"{m:%Y-%m-%d %H:%M:%S}" for m in MOMENTS]
    frames = [
        pd.DataFrame({"t": MOMENTS}),
        pd.DataFrame({"t": pd.Series(MOMENTS).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")}),
        pd.DataFrame({"t": pd.Series(MOMENTS, dtype=object)}),
        pd.DataFrame({"t": texts}),
        pl.DataFrame({"t": MOMENTS}),
        pa.table({"t": pa.array(MOMENTS, pa.timestamp("ns"))}),
        pa.table({"t": texts}),
    ]
    schema = Schema.fit(frames[0])
    assert schema.columns[0].cycles == ("day", "week", "year") and schema.width == 7 and schema.numeric == (0,)
    wanted = schema.encode(frames[0])
    seconds = np.array([(m - dt.datetime(1970, 1, 1)).total_seconds() for m in MOMENTS])
    np.testing.assert_allclose(wanted[:, 0], (seconds - seconds.mean()) / seconds.std(), atol=1e-6)
    np.testing.assert_allclose(wanted[:, 1], np.sqrt(2) * np.sin(2 * np.pi * seconds / DAY), atol=1e-6)
    for frame in frames:
        assert Schema.fit(frame) == schema and np.array_equal(schema.encode(frame), wanted)
    days = [m.date() for m in MOMENTS]
    same = [
        pd.DataFrame({"t": days}),
        pl.DataFrame({"t": days}),
        pa.table({"t": days}),
        pd.DataFrame({"t": map(str, days)}),
    ]
    assert len({Schema.fit(frame) for frame in same}) == 1


def test_times_of_the_day_of_every_frame_and_of_texts_are_encoded_alike():
    moments = [dt.time(k % 24, 7 * k % 60, k % 60) for k in range(48)]
    texts = [f"{m:%H:%M:%S}" for m in moments]
    frames = [
        pd.DataFrame({"t": moments}),
        pd.DataFrame({"t": texts}),
        pl.DataFrame({"t": moments}),
        pa.table({"t": pa.array(moments, pa.time64("ns"))}),
        pa.table({"t": pa.array(moments, pa.time32("s"))}),
        pa.table({"t": [" " + text.lstrip("0") if text[:2] != "00" else text for text in texts]}),
    ]
    schema = Schema.fit(frames[0])
    assert schema.columns[0].kind == "clock" and schema.columns[0].cycles == ("day",) and schema.numeric == (0,)
    assert Schema.from_dict(schema.to_dict()) == schema
    seconds = np.array([m.hour * 3600 + m.minute * 60 + m.second for m in moments], float)
    angle = 2 * np.pi * seconds / DAY
    wanted = np.stack(
        [(seconds - seconds.mean()) / seconds.std(), np.sqrt(2) * np.sin(angle), np.sqrt(2) * np.cos(angle)], axis=1
    )
    for frame in frames:
        assert Schema.fit(frame) == schema
        np.testing.assert_allclose(schema.encode(frame), wanted, atol=1e-6)
    for other, words in (
        (["2024-01-31"], "it is text, such as '2024-01-31' in row 0. Write times as 13:45."),
        ([dt.date(2024, 1, 31)], "it is time"),
        ([25.0], "it is numeric"),
        (["24:00"], "it is text, such as '24:00' in row 0"),
    ):
        with pytest.raises(DataError, match=f"Column 't' was clock at fit; now {words}"):
            schema.encode(pd.DataFrame({"t": other}))
    with pytest.raises(DataError, match="Column 't' was time at fit; now it is clock"):
        Schema.fit(pd.DataFrame({"t": MOMENTS})).encode(frames[0])
    assert Schema.fit(pd.DataFrame({"t": ["13:45", "2024-01-31"] * 9})).columns[0].kind == "category"


@pytest.mark.parametrize(
    ("start", "count", "freq", "cycles"),
    [
        ("2024-01-01 05:00", 18, "h", ()),
        ("2024-01-01", 6, "D", ()),
        ("2024-01-01", 30, "D", ("week",)),
        ("2024-01-01", 400, "h", ("day", "week")),
        ("2020-01-01", 48, "MS", ("week", "year")),
        ("2020-01-06", 150, "7D", ("year",)),
    ],
)
def test_a_cycle_is_encoded_where_the_rows_cover_it(start, count, freq, cycles):
    assert Schema.fit(pd.DataFrame({"t": pd.date_range(start, periods=count, freq=freq)})).columns[0].cycles == cycles


def test_missing_times_are_marked_and_other_texts_are_refused():
    texts = ["2024-01-01", "2024-01-09", "?", None, "2024-01-05"]
    schema = Schema.fit(pd.DataFrame({"t": texts}))
    assert schema.columns[0].missing and schema.encode(pd.DataFrame({"t": texts}))[:, -1].tolist() == [0, 0, 1, 1, 0]
    assert not schema.encode(pd.DataFrame({"t": [None, "?"]}))[:, :-1].any()
    with pytest.raises(DataError, match="'t' was time at fit; now it is text, such as 'soon' in row 1"):
        schema.encode(pd.DataFrame({"t": ["2024-01-01", "soon"]}))
    with pytest.raises(DataError, match="'t' was time at fit; now it is numeric"):
        schema.encode(pd.DataFrame({"t": [1.0]}))
    numbers = Schema.fit(pd.DataFrame({"t": [1.0, 2.0, 5.0]}))
    with pytest.raises(DataError, match="'t' was numeric at fit; now it is time"):
        numbers.encode(pd.DataFrame({"t": [dt.datetime(2024, 1, 1)]}))


def test_a_duration_is_a_number_of_seconds():
    spans = [dt.timedelta(hours=h) for h in (0, 1, 3)]
    for frame in (pd.DataFrame({"t": spans}), pl.DataFrame({"t": spans}), pa.table({"t": spans})):
        (column,) = Schema.fit(frame).columns
        assert column.kind == "numeric" and column.shift == pytest.approx(4800)


def test_texts_that_are_no_dates_in_some_row_are_near_unique_texts():
    days = [f"{k // 28 + 1}/{k % 28 + 1}/2024" for k in range(100)]
    with pytest.warns(DataWarning) as found:
        Schema.fit(pd.DataFrame({"t": days, "x": np.arange(100.0) ** 2}))
    assert [str(each.message) for each in found] == [
        "Left out of the inputs: 't' (nearly every row has another text).",
        "Dates in a notation that is not read are texts; write them as 2024-01-31: 't' (such as '1/1/2024').",
    ]


@pytest.mark.parametrize(
    ("text", "is_date"),
    [
        *(
            (text, True)
            for text in ("1/31/24", "01/31/2024 12:00", "31-1-2024", "2024.01.31", "31 Jan 2024", "31-JAN-24")
        ),
        *((text, True) for text in ("Jan 31, 2024", "January 2024", "2024-02-30")),
        *(
            (text, False)
            for text in ("", "12.5", "1/2", "2024", "10-20", "may", "March", "Jan", "12:00", "192.168.0.1")
        ),
    ],
)
def test_dates_in_other_notations_are_recognized_in_a_note(text, is_date):
    assert dates.looks_like_date(text) == is_date
    frame = pd.DataFrame({"t": [text or "x", text or "y", "?"], "x": [1.0, 2.5, 0.0]})
    if is_date:
        with pytest.warns(DataWarning, match="are texts; write them as 2024-01-31: 't' .such as"):
            Schema.fit(frame)
