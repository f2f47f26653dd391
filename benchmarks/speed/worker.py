"""One side of a comparison: ``python worker.py MODULE FUNCTION OPTIONS`` (JSON) sets up and runs the work once (the cold run).

It then repeats the work for each line "go" on standard input. Every result is a line of JSON; between lines the process sleeps.
"""

import importlib
import json
import resource
import sys
import time


def main():
    module, function, options = sys.argv[1:4]
    out, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not break the protocol
    start = time.perf_counter()
    task = getattr(importlib.import_module(module), function)(**json.loads(options))
    answer(out, task, start)
    for line in sys.stdin:
        if line.strip() == "go":
            answer(out, task, time.perf_counter())


def answer(out, task, start):
    result = task.run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reached = task.check(result)
    print(
        json.dumps({"seconds": seconds, "units": task.units, "peak_mb": peak, "reached": reached}), file=out, flush=True
    )


if __name__ == "__main__":
    main()
