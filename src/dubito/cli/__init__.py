"""The command line.

- ``terminal``: text that cannot control the terminal.
- ``grids``: scores as tables for a terminal.
- ``progress``: the progress bar of a fit.
- ``compilation_cache``: compiled programs, kept between runs.
- ``command_tables``: the tables that commands read.
- ``output_parts``: the finished parts of a long prediction.
- ``predict_file``: predictions of a table's file, block by block.
- ``demo``: the main job on bundled data.
- ``commands``: fit, predict, evaluate, calibrate, compare, demo and the rest.
"""
