"""Compiled programs that processes on one host share by a folder."""

import os
import pathlib
import subprocess
import sys

PARENT = """
import os, subprocess, sys
import jax
from dubito._jax import programs

folder = programs.folder_of_workers()
assert programs.folder_of_workers() == folder and os.stat(folder).st_mode & 0o077 == 0
for _ in range(2):
    print(subprocess.run([sys.executable, "-c", sys.argv[1], folder], capture_output=True, text=True, check=True).stdout, end="")
print(folder)
"""
WORKER = """
import os, sys
import jax
import jax.numpy as jnp

jax.jit(lambda x: jnp.sin(x) + 2)(1.0)  # JAX has chosen to store nothing
from dubito._jax import programs

folder = sys.argv[1]
programs.share_programs(folder)
programs.share_programs(folder)
before = set(os.listdir(folder))
jax.jit(lambda x: jnp.cos(x) + 1)(1.0)
print(len(set(os.listdir(folder)) - before) > 0)
programs.share_programs(folder + "-of-another-host")
print(jax.config.jax_compilation_cache_dir)
"""


def test_a_second_process_reads_what_the_first_compiled_and_nothing_is_left_behind():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    found = subprocess.run(
        [sys.executable, "-c", PARENT, WORKER], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    *lines, folder = found.stdout.split()
    assert lines == ["True", folder, "False", folder]
    assert not pathlib.Path(folder).exists()
