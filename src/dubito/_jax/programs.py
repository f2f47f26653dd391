"""Compiled programs, a bounded number of each function: those of sizes and settings that were used last.

A program of its own for each width, table and method keeps 10 to 50 MB, and mappings of memory, of which a process may have
65,530. Only this library's functions are bounded: a user's own programs stay.
"""

import functools
import threading
from collections import OrderedDict
from typing import Any

import jax

KEPT = 16  # programs of one function


def jit(function=None, *, kept=KEPT, static_argnums=(), **options) -> Any:
    """``jax.jit`` of a module's function, called with positional arguments, that keeps the ``kept`` programs used last."""
    if function is None:
        return functools.partial(jit, kept=kept, static_argnums=static_argnums, **options)
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    return functools.wraps(function)(Programs(function, kept, static, options))


class Programs:
    """A function compiled for the arguments' shapes. Threads that ask for one program at once get the same one; one that
    runs stays until it has ended."""

    def __init__(self, function, kept, static, options):
        self.function, self.kept, self.static, self.options = function, kept, static, options
        self.programs, self.lock = OrderedDict(), threading.Lock()

    def __call__(self, *arguments):
        return self._program(arguments)(*arguments)

    def trace(self, *arguments):
        return self._program(arguments).trace(*arguments)

    def eval_shape(self, *arguments):
        return self._program(arguments).eval_shape(*arguments)

    def _program(self, arguments):
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

    def _new(self):
        @functools.wraps(self.function)
        def own(*arguments):  # JAX's caches go by the function
            return self.function(*arguments)

        return jax.jit(own, static_argnums=self.static, **self.options)
