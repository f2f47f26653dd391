"""A model's predictions over HTTP, as JSON.

- ``rows``: the rows of a request as a table, and predictions as JSON.
- ``metrics``: what Prometheus reads: requests, latencies, rows, and the share of uncertain ones.
- ``served_model``: a model ready to answer, and what a client needs to know about it.
- ``model_file``: the model of a file, replaced whole when the file is.
- ``app``: requests and their answers.
- ``server``: the process: a socket, a thread that answers, and its end after a signal.

starlette and uvicorn are imported on use.
"""
