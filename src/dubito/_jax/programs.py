"""Compiled programs, a bounded number of each function: those of the sizes and settings that were
used last.

Each program, one for each width, table and method, occupies 10 to 50 MB and several memory
mappings, of which a process may have 65,530. Only the functions of this library are bounded; a
user's own programs stay.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax

KEPT = 16  # programs of one function


def jit(
    function: Callable[..., Any] | None = None,
    *,
    kept: int = KEPT,
    static_argnums: int | Sequence[int] = (),
    **options: Any,
) -> Any:
    """``jax.jit`` of a module's function, called with positional arguments, that keeps the ``kept``
    programs used last.
    """
    if function is None:
        return functools.partial(jit, kept=kept, static_argnums=static_argnums, **options)
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    return functools.wraps(function)(Programs(function, kept, static, options))


class Programs:
    """A function compiled for the shapes of its arguments.

    Threads that ask for one program at the same time get the same one; a running program stays
    until it has ended.
    """

    def __init__(
        self, function: Callable[..., Any], kept: int, static: tuple[int, ...], options: dict[str, Any]
    ) -> None:
        self.function, self.kept, self.static, self.options = function, kept, static, options
        self.programs: OrderedDict[Any, Any] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        return self._program(arguments)(*arguments)

    def trace(self, *arguments: Any) -> Any:
        return self._program(arguments).trace(*arguments)

    def eval_shape(self, *arguments: Any) -> Any:
        return self._program(arguments).eval_shape(*arguments)

    def _program(self, arguments: tuple[Any, ...]) -> Any:
        leaves, tree = jax.tree.flatten([each for k, each in enumerate(arguments) if k not in self.static])
        key = tree, *map(jax.typeof, leaves), *(arguments[k] for k in self.static)
        dropped = None
        with self.lock:
            program = self.programs.pop(key, None) or self._new()
            self.programs[key] = program
            if len(self.programs) > self.kept:
                _, dropped = self.programs.popitem(last=False)
        if dropped is not None:
            dropped.clear_cache()
        return program

    def _new(self) -> Any:
        @functools.wraps(self.function)
        def own(*arguments):  # JAX's caches go by the function
            return self.function(*arguments)

        return jax.jit(own, static_argnums=self.static, **self.options)
