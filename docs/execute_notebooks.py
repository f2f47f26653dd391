"""Execute notebooks and store their output in them: python docs/execute_notebooks.py NOTEBOOK ...

What changes although the results stay, such as the time of execution and the version of Python, is left out.
"""

import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient

TIMEOUT = 1800  # seconds of a cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def merged(outputs):
    """The outputs with each run of pieces of one stream as one output: how a stream is cut depends on time."""
    found = []
    for output in outputs:
        if found and output.output_type == "stream" == found[-1].output_type and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def execute(path):
    """Execute one notebook in place; an error of a cell leaves the file as it is."""
    notebook = nbformat.read(path, as_version=4)
    options = {"timeout": TIMEOUT, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, **options).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        start = time.perf_counter()
        print(f"Executing {name} ...", flush=True)
        execute(pathlib.Path(name))
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
