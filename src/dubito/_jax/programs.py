"""Compiled programs, a bounded number of each function: those used last.

A program, one for each width, table and method, occupies 10 to 50 MB and several memory mappings,
of which a process may have 65,530. Only the functions of this library are bounded; a user's own
programs stay.
"""

import atexit
import functools
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.experimental.compilation_cache import compilation_cache

KEPT = 16  # programs of one function

_lock = threading.Lock()
_folders: list[str] = []  # at most one

Function: TypeAlias = Callable[..., Any]


def jit(
    function: Function | None = None, *, kept: int = KEPT, static_argnums: int | tuple[int, ...] = (), **options: Any
) -> Any:
    """Compile a module's function, as ``jax.jit`` does, and keep the ``kept`` programs used last.

    Parameters
    ----------
    function : callable, optional
        The function, which is called with positional arguments. None makes a decorator.
    kept : int
        Number of programs to keep.
    static_argnums : int or tuple of int
        As for ``jax.jit``.
    **options : object
        More options of ``jax.jit``.

    Returns
    -------
    Programs
        The compiled function.
    """
    if function is None:
        return functools.partial(jit, kept=kept, static_argnums=static_argnums, **options)
    static = (static_argnums,) if isinstance(static_argnums, int) else static_argnums
    return functools.wraps(function)(Programs(function, kept, static, options))


class Programs:
    """A function compiled for the shapes of its arguments.

    Threads that need one program at the same time get the same one; a running program stays until
    it has ended.

    Parameters
    ----------
    function : callable
        The function.
    kept : int
        Number of programs to keep.
    static : tuple of int
        Places of the arguments that are not traced.
    options : dict
        More options of ``jax.jit``.
    """

    def __init__(self, function: Function, kept: int, static: tuple[int, ...], options: dict[str, Any]) -> None:
        self.function, self.kept, self.static, self.options = function, kept, static, options
        self.programs: OrderedDict[Any, Any] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        return self._program(arguments)(*arguments)

    def trace(self, *arguments: Any) -> Any:
        """As of a function compiled by ``jax.jit``."""
        return self._program(arguments).trace(*arguments)

    def eval_shape(self, *arguments: Any) -> Any:
        """As of a function compiled by ``jax.jit``."""
        return self._program(arguments).eval_shape(*arguments)

    def _program(self, arguments: tuple[Any, ...]) -> Any:
        leaves, tree = jax.tree.flatten([each for k, each in enumerate(arguments) if k not in self.static])
        key = tree, *map(jax.typeof, leaves), *(arguments[k] for k in self.static)
        with self.lock:
            program = self.programs[key] = self.programs.pop(key, None) or self._compiled()
            dropped = self.programs.popitem(last=False)[1] if len(self.programs) > self.kept else None
        if dropped is not None:
            dropped.clear_cache()
        return program

    def _compiled(self) -> Any:
        own = functools.wraps(self.function)(
            lambda *arguments: self.function(*arguments)
        )  # JAX's caches go by function
        return jax.jit(own, static_argnums=self.static, **self.options)


def folder_of_workers() -> str:
    """A folder in which processes that this one starts on the same host share their compiled programs.

    Returns
    -------
    str
        That of ``jax_compilation_cache_dir``, or a temporary folder that is deleted when this process ends.
    """
    configured = _configured()
    with _lock:
        if configured is None and not _folders:
            _folders.append(tempfile.mkdtemp(prefix="dubito-programs-"))
            atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
        return configured or _folders[0]


def share_programs(folder: str) -> None:
    """Read and write compiled programs in a folder, unless JAX has one already or it is on another host.

    Parameters
    ----------
    folder : str
        As ``folder_of_workers`` returned it.
    """
    known = _configured()
    if known == folder or known is not None and os.path.isdir(known):
        return
    found = folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None
    with _lock:
        jax.config.update("jax_compilation_cache_dir", found)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # or JAX would go on with the folder that it had first


def _configured() -> str | None:
    config: Any = jax.config
    return config.jax_compilation_cache_dir
