"""What JAX lacks for this library.

- ``types``: names for the types that annotations share.
- ``programs``: compiled programs, a bounded number per function.
- ``pytree``: dataclasses as pytrees: traced and static fields.
- ``prng``: Threefry, bit for bit that of ``jax.random``, in a form that XLA compiles faster.
- ``jaxpr``: what a traced program does with each parameter.
"""
