"""The command line.

- ``terminal``: text and tables of scores for a terminal.
- ``progress``: what a long command tells while it runs.
- ``compilation_cache``: compiled programs, stored between runs.
- ``application``: its options, notes and errors.
- ``table_options``: the options that describe a table.
- ``command_tables``: the tables that commands read.
- ``output_parts``: a long prediction's output, resumed from its finished parts.
- ``predict_file``: predictions of a table's file, block by block.
- ``export_model``: a model for other programs.
- ``comparisons``: comparisons by cross-validation, whole or in parts.
- ``demo``: the main job on bundled data.
- ``card``: a model card in Markdown.
- ``serve``: predictions over HTTP.
- ``commands``: fit, predict, evaluate, calibrate, compare, merge, demo and the rest.
"""
