"""The default method with 3 folds and a tenth of its epochs, for tests of what surrounds it: compilation takes long enough."""

import os
import pathlib
import sys
from dataclasses import replace

from dubito.methods.default import default_method

PROGRAM = f"""#!{sys.executable}
import sys
sys.path.append({str(pathlib.Path(__file__).parent)!r})
import dubito
from dubito.estimators import base
from dubito.methods import by_name
from short_default import short_default
base.default_method = short_default
by_name.METHODS["mc-dropout"] = dubito.MCDropout(epochs=20)
from dubito.__main__ import main
main()
"""


def short_default(*arguments):
    method = default_method(*arguments)
    return replace(method, folds=3, method=replace(method.method, epochs=max(20, method.method.epochs // 10)))


def path_with_program(folder):
    """A PATH whose ``dubito``, written to ``folder``, is the command line with the short default method."""
    program = folder / "bin" / "dubito"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"
