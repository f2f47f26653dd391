"""One network over several devices and processes: the same numbers up to rounding. Both use the same programs, so that one
method, with mini-batches, is enough for the processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

FIT = """
import json, sys
import jax, numpy as np
import dubito
from jax.sharding import Mesh

rng = np.random.default_rng(0)
x = rng.normal(size=(203, 3))
y = np.sin(x[:, :1]) + 0.1 * rng.normal(size=(203, 1))
model = dubito.Model(dubito.mlp(3, (16,)), dubito.Gaussian())
METHODS = [dubito.BayesByBackprop(epochs=4, batch_size=None), dubito.MCDropout(epochs=2, batch_size=32, noise="training")]

def learned(mesh, methods=METHODS):
    found = []
    for method in methods:
        posterior = dubito.fit(model, x, y, method, key=jax.random.key(1), mesh=mesh, early_stopping=True)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(posterior) if getattr(leaf, "dtype", None) == np.float32]
        found.append(np.concatenate([leaf.ravel() for leaf in leaves]).tolist())
    return found
"""

DEVICES = f"""{FIT}
devices = jax.devices()
assert len(devices) == 8
print(json.dumps([learned(None), learned(Mesh(np.array(devices), "rows"))]))
"""

PROCESSES = f"""
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
import sys
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
{FIT}
print(json.dumps(learned(Mesh(np.array(jax.devices()), "rows"), METHODS[1:])))
"""


def started(program, *arguments, flags=""):
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, error = process.communicate(timeout=280)
    assert process.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_over_devices_and_processes(tmp_path):
    dump = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*chunk.*"
    plain, several = result(started(DEVICES, flags=f"--xla_force_host_platform_device_count=8 {dump}"))
    programs = [path.read_text() for path in tmp_path.glob("*chunk*after_optimizations.txt")]
    assert sum("all-reduce" in program for program in programs) == 2  # gradients are summed over the devices
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [started(PROCESSES, address, str(number)) for number in range(2)]
    for one, other in zip(several, plain, strict=True):
        assert len(other) > 16 * 3
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4)
    for process in pair:
        np.testing.assert_allclose(*result(process), plain[1], rtol=0, atol=2e-4)
