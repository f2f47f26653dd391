"""The options of all commands that read a table: how it is written, and for a fit which columns are inputs."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dubito._check import DataError, list_first
from dubito.tables.dialects import Dialect

ModelFile = Annotated[Path, Argument(metavar="MODEL", help="A model file that fit or calibrate has written.")]
TableFile = Annotated[
    str, Argument(metavar="TABLE", help="A .csv, .tsv, .txt (or .gz), .xlsx or .parquet file, or - for text on stdin.")
]
Target = Annotated[str, Option("--target", "-t", help="The column to predict.")]
Categorical = Annotated[list[str] | None, Option(metavar="COLUMN", help="A column to treat as categories; repeatable.")]
Keep = Annotated[
    list[str] | None,
    Option(metavar="COLUMNS", help="Columns of TABLE, or all, to put first in the output, unchanged; repeatable."),
]
Separator = Annotated[
    str | None,
    Option(metavar="CHARACTER", help="Between the cells of a text: , ; tab or |. Found in the file by default."),
]
Decimal = Annotated[str | None, Option(metavar="CHARACTER", help="In numbers of a text: . or a comma.")]
Encoding = Annotated[str | None, Option(metavar="NAME", help="Of a text: utf-8, latin-1, utf-16, ...")]
Sheet = Annotated[str | None, Option(metavar="NAME", help="Of an .xlsx file; the first by default.")]
Drop = Annotated[
    list[str] | None, Option(metavar="COLUMNS", help="Columns to leave out, with commas between them; repeatable.")
]
Inputs = Annotated[list[str] | None, Option(metavar="COLUMNS", help="The only columns to use as inputs; as --drop.")]

Groups = Annotated[
    str | None, Option(metavar="COLUMN", help="Rows with the same value are never separated; the column is no input.")
]
NoGroups = Annotated[bool, Option("--no-groups", help="Let folds separate rows that repeat one another.")]
Time = Annotated[str | None, Option(metavar="COLUMN", help="Hold later rows out from earlier ones, by this column.")]

FitUnknown = Annotated[
    str, Option(metavar="WHAT", help="Categories not seen in fit: ignore (encode as zeros) or error.")
]
FitMissing = Annotated[str, Option(metavar="WHAT", help="Missing inputs: fill (encode and mark them) or error.")]
Unknown = Annotated[str | None, Option(metavar="WHAT", help="As in fit; by default what fit was given.")]
Missing = Annotated[str | None, Option(metavar="WHAT", help="As in fit; by default what fit was given.")]
TargetTransform = Annotated[
    str | None, Option(metavar="NAME", help="Fit to log, box-cox or yeo-johnson of the target.")
]
ClassWeight = Annotated[
    str | None, Option(metavar="balanced", help="Give all classes the same total weight, whatever their rows.")
]

READING = {"separator": Separator, "decimal": Decimal, "encoding": Encoding, "sheet": Sheet}
CHOOSING = {"drop": Drop, "inputs": Inputs}


@dataclass
class TableOptions:
    """How to read a table, and which of its columns are inputs.

    Parameters
    ----------
    dialect : Dialect
        How it is written; receives what is found.
    drop, inputs : sequence of str
        As given by the options --drop and --inputs.

    Attributes
    ----------
    dropped : list of str
        The columns that ``choose_inputs`` left out.
    """

    dialect: Dialect = field(default_factory=Dialect)
    drop: Sequence[str] = ()
    inputs: Sequence[str] = ()
    dropped: list[str] = field(default_factory=list)

    def choose_inputs(self, names: Sequence[str], target: str, source: str) -> list[str]:
        """The columns of a table that are inputs.

        Parameters
        ----------
        names : sequence of str
            The columns of the table, with or without the target.
        target : str
            The target's column.
        source : str
            The file, for messages.

        Returns
        -------
        list of str
            In the table's order.

        Raises
        ------
        DataError
            For a name that no column has, the target, and a column that is to be both.
        """
        from dubito.tables.files import resolve_names

        known = [*names, *[target] * (target not in names)]
        drop = resolve_names(self.drop, known, f"--drop: {source}")
        inputs = resolve_names(self.inputs, known, f"--inputs: {source}")
        for option, given in (("--drop", drop), ("--inputs", inputs)):
            if target in given:
                raise DataError(f"{option} names the target {target!r}. Leave it out.")
        if both := [repr(name) for name in drop if name in inputs]:
            raise DataError(f"--drop and --inputs both name {list_first(both)}. Choose one.")
        chosen = [name for name in names if name != target and name not in drop and (name in inputs or not self.inputs)]
        self.dropped = [name for name in names if name != target and name not in chosen]
        return chosen

    @property
    def given(self) -> dict[str, Any]:
        """The options that the user has given."""
        return {**self.dialect.named, "drop": [*self.drop], "inputs": [*self.inputs]}

    @property
    def found(self) -> dict[str, Any]:
        """What the model remembers of its table."""
        return {"dialect": self.dialect.found, "dropped": self.dropped}


def with_table_options(*, fits: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that describe a table, which it gets as a ``TableOptions``, its first parameter.

    Parameters
    ----------
    fits : bool
        Whether the command also gets --drop and --inputs.

    Returns
    -------
    callable
        A decorator.
    """
    kinds: dict[str, Any] = READING | (CHOOSING if fits else {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*arguments: Any, **values: Any) -> None:
            given = {name: values.pop(name, None) for name in kinds}
            dialect = Dialect(*(given[name] for name in READING))
            source = TableOptions(dialect, given.get("drop") or (), given.get("inputs") or ())
            command(source, *arguments, **values)

        own = list(inspect.signature(command).parameters.values())[1:]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in kinds.items()
        ]
        vars(run)["__signature__"] = inspect.Signature([*own, *more])
        run.__annotations__ = {one.name: one.annotation for one in [*own, *more]}
        return run

    return decorate
