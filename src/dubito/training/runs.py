"""The runs of a fit's members: each in a thread of this process, or some in each task of an engine."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dubito._jax import prng, programs
from dubito._process.engines import Engine, chosen_engine, run_tasks
from dubito._process.threads import SEATS, run_concurrently
from dubito.models.model import Model
from dubito.training.chunk import Run, begin, begin_all, chunk, chunk_all, unordered
from dubito.training.data import Rows, pad_data
from dubito.training.early_stopping import Stopping, has_ended
from dubito.training.loop_state import ChunkLimits, DataPiece, DeviceRows, LoopState
from dubito.training.members import Member
from dubito.training.method import LoopMethod
from dubito.training.processes import in_any_process, spans_processes
from dubito.training.reports import Report, report_chunk
from dubito.training.stream import Stream, memory_pieces, stream_pieces

CHUNK_SECONDS = 0.3  # the duration of a chunk to aim at, so that progress and Ctrl-C are prompt
FIRST_CHUNK_STEPS = 16
TASKS_PER_JOB = 8  # of an engine, at most: more balance the load no better


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What the runs of all members have in common.

    Attributes
    ----------
    model : Model
    members : list of Member
    rows : Rows
    stopping : Stopping
    batch_rows : int
        The number of rows of a batch, including padding.
    held : int
        The number of held-out rows, including padding.
    of_members : bool
        As in ``Report``.
    stream : Stream, optional
        The source of the rows if they are more than one piece.
    mesh : jax.sharding.Mesh, optional
        As in ``fit``.
    """

    model: Model
    members: list[Member]
    rows: Rows
    stopping: Stopping
    batch_rows: int
    held: int
    of_members: bool
    stream: Stream | None = None
    mesh: Any = None

    def run_all(
        self,
        method: LoopMethod,
        slots: list[Any],
        progress: Callable[[Report], None] | None,
        keep_on_interrupt: bool,
    ) -> list[LoopState]:
        """Run each member once, from its start or its checkpoint to its end.

        On the engine that the caller has chosen, unless the fit must keep what it has when it is
        interrupted.

        Parameters
        ----------
        method : LoopMethod
        slots : list of Slot or None
            The place of each member in the checkpoint.
        progress, keep_on_interrupt : optional
            As in ``fit``.

        Returns
        -------
        list of LoopState
            The final state of each member.
        """
        count, special = len(self.members), self.stream is not None or self.mesh is not None
        here = special or keep_on_interrupt or slots[0] is not None or count == 1 or not self.of_members
        engine = None if here else chosen_engine()
        if engine is not None:
            return self._run_on(engine, method, progress)
        numbers = list(range(count))
        groups = [[number] for number in numbers] if special or prng.on_cpu() else [numbers]
        return self.run_some(method, groups, slots, progress, keep_on_interrupt)

    def run_some(
        self,
        method: LoopMethod,
        groups: list[list[int]],
        slots: list[Any],
        progress: Callable[[Report], None] | None,
        keep_on_interrupt: bool,
        ended: Any = None,
    ) -> list[LoopState]:
        """Run the members of each group as one program, in a thread for each group.

        Parameters
        ----------
        method, slots, progress, keep_on_interrupt
            As for ``run_all``.
        groups : list of list of int
            The numbers of the members.
        ended : threading.Event, optional
            Ends the runs when it is set, beside Ctrl-C.

        Returns
        -------
        list of LoopState
            Of the members of all groups.
        """

        def one(numbers: list[int], stop: Any) -> list[LoopState]:
            stop = stop if ended is None else _Either(stop, ended)
            found = [self.members[number] for number in numbers]
            run = Run(
                model=self.model,
                method=method,
                held=stack([self._held_rows(member) for member in found]),
                key=stack([member.key for member in found]),
                stopping=self.stopping,
                batch_rows=self.batch_rows,
                mesh=self.mesh,
            )
            count = len(self.members)
            reports = [partial(report_chunk, (progress, number, count, self.of_members)) for number in numbers]
            with contextlib.closing(self._pieces(*found)) as source:
                states = run_members(run, source, stop, reports, [slots[number] for number in numbers])
            mine = keep_on_interrupt or stop.is_set() or not spans_processes(self.mesh)  # or another has ended the run
            if not mine and not all(has_ended(state, method.epochs) for state in states):
                raise KeyboardInterrupt("another process of this fit was stopped")
            return states

        threads = None if self.mesh is None else 1
        return [state for group in run_concurrently(one, groups, keep_on_interrupt, threads) for state in group]

    def _run_on(self, engine: Engine, method: LoopMethod, progress: Callable[[Report], None] | None) -> list[LoopState]:
        """Run the members in tasks of an engine; their progress comes when a task has ended."""
        count = len(self.members)
        size = max(engine.cores, count // (TASKS_PER_JOB * engine.jobs))
        tasks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        names = [f"member {task[0]}" if len(task) == 1 else f"members {task[0]} to {task[-1]}" for task in tasks]
        shared, states = (self, method, programs.folder_of_workers(), progress is not None), {}
        with contextlib.closing(run_tasks(engine, _run_task, shared, tasks, names)) as results:
            for number, (found, reports) in results:
                states |= zip(tasks[number], found, strict=True)
                if progress is not None:
                    for report in reports:
                        progress(report)
        return [states[number] for number in range(count)]

    @cached_property
    def _pieces(self) -> Callable[..., Any]:
        if self.stream is not None:
            return stream_pieces(self.stream, self.batch_rows)
        return memory_pieces(self.rows, self.batch_rows, self._put)

    def _put(self, array: Any) -> Any:
        return jax.device_put(array, None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec()))

    def _held_rows(self, member: Member) -> DeviceRows:
        valid = np.atleast_2d(member.valid).T
        chosen = np.flatnonzero(valid.any(axis=1))
        x, y, weight = (array[chosen] for array in (self.rows.x, self.rows.y, valid))
        return DeviceRows(*map(self._put, pad_data(x, y, weight, self.held + self.batch_rows)))


class _Either(NamedTuple):
    """An event that is set when one of two is."""

    one: Any
    other: Any

    def is_set(self) -> bool:
        return self.one.is_set() or self.other.is_set()


def _run_task(shared: tuple[Runs, LoopMethod, str, bool], numbers: range, stop: Any) -> tuple[Any, list[Report]]:
    """The states of some members, and the reports of their progress if they are wanted, in a worker."""
    runs, method, folder, wanted = shared
    programs.share_programs(folder)
    reports: list[Report] = []
    groups = [[number] for number in numbers]
    slots = [None] * len(runs.members)
    return runs.run_some(method, groups, slots, reports.append if wanted else None, False, stop), reports


def run_members(
    run: Run, pieces: Iterator[DataPiece], stop: Any, reports: list[Any], slots: list[Any]
) -> list[LoopState]:
    """Run one member, or several as one program, from the start or a checkpoint to the end.

    Parameters
    ----------
    run : Run
    pieces : iterator of DataPiece
    stop : threading.Event
        Set on Ctrl-C.
    reports : list of callable
        The reporter of each member.
    slots : list of Slot or None
        The place of each member in the checkpoint.

    Returns
    -------
    list of LoopState
        The final state of each member.
    """
    total, count = int(run.method.epochs), len(reports)
    start, advance = (begin, chunk) if count == 1 else (begin_all, chunk_all)
    piece = next(pieces)
    parts = run.held.weight.shape[-1]
    loop_state = start(run.model, run.method, piece.rows, run.batch_rows, parts, run.mesh, run.key)
    order = unordered(piece.rows, run.mesh)
    each: Any = unstack(loop_state, count)
    logs: Any = [np.empty((0, 3), np.float32)] * count
    length, fresh = FIRST_CHUNK_STEPS, True
    if slots[0] is not None:
        steps = int(np.max(piece.steps))
        each, logs = zip(*(slot.restore(one, total, steps) for slot, one in zip(slots, each, strict=True)), strict=True)
        loop_state = stack(each)
        for report, one, log in zip(reports, each, logs, strict=True):
            report(total, one, piece, log, log)

    def stopped() -> bool:  # in all processes after the same chunk
        return in_any_process(run.mesh, stop.is_set())

    if stopped():  # while the first program was compiled
        return each
    while True:
        while not np.all((piece.first <= np.asarray(loop_state.number)) & (np.asarray(loop_state.number) < piece.end)):
            piece = next(pieces)
        with SEATS:
            clock = time.perf_counter()
            limits = ChunkLimits(np.int32(0 if stopped() else length), np.int32(total), np.bool_(fresh))
            loop_state, order = advance(run, piece, limits, loop_state, order)
            each = unstack(loop_state, count)
            new = [np.array(one.log)[: int(one.epoch) - len(log)] for one, log in zip(each, logs, strict=True)]
            seconds = time.perf_counter() - clock
        logs = [np.concatenate(both) for both in zip(logs, new, strict=True)]
        last = stopped() or all(len(log) == total or bool(one.done) for one, log in zip(each, logs, strict=True))
        for report, slot, one, log, more in zip(reports, slots, each, logs, new, strict=True):
            report(total, one, piece, log, more)
            if slot is not None:
                slot.keep(one, log, last)
        if last:
            return each
        fresh = False
        if jax.process_count() == 1:  # several must go on in step, and their clocks differ
            pace = CHUNK_SECONDS / max(seconds, 1e-4)
            length = int(min(2**30, max(1, length * min(4.0, pace))))


def stack(trees: Any) -> Any:
    """One tree unchanged, several stacked along a new first axis."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The inverse of ``stack``."""
    return [tree] if count == 1 else [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(count)]
