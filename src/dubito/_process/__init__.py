"""What the process does besides computing. No JAX here.

- ``output_files``: output paths checked before the work, files written whole or not at all.
- ``strict_json``: JSON that is not trusted.
- ``archive``: a JSON document and named arrays in one file, which has a SHA-256 and is read without trust.
- ``interrupts``: SIGINT and SIGTERM as a flag that loops read.
- ``threads``: work on host threads, one per core, which Ctrl-C ends.
- ``versions``: those of Python and of the libraries that compute.
- ``engines``: tasks on the engine that the caller has chosen: loky, Dask or Ray.
"""
