"""The versions of Python and of the libraries that compute."""

import importlib.metadata
import platform

LIBRARIES = ("dubito", "jax", "jaxlib", "numpy", "optax", "scikit-learn")


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that compute.

    Returns
    -------
    dict
        By name; Python first.
    """
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}
