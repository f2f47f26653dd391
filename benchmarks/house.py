"""Counts how the code is written (size, contracts, types, docstrings, words) and, optionally, how it runs.

    scripts/measure          # reads the source
    scripts/measure --run    # also counts the calls between files during a fit and times a cold process

A code line contains a token that is neither a comment nor a docstring. Probes are calls of hasattr and getattr. A borrowed method
is a class attribute taken from another class. An overridden method is defined, without "abstract", in a class and in its base.
Public are the names in the package's stub, and the functions, classes and methods without an underscore in modules that it names.
"""

import argparse
import ast
import collections
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import tokenize

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dubito"
PROSE = (".md", ".py", ".pyi", ".toml", ".jinja", ".ipynb", "")  # suffixes of files with words of ours
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENCODING)
SECTIONS = re.compile(r"^\s*(Parameters|Returns|Yields|Attributes)\n\s*-{4,}", re.MULTILINE)
VALIDATING: dict[
    str, set[str]
] = {  # file: functions that turn users' own objects into ours, where probing is the point
    "_values.py": {"as_array"},
    "inspection/network_view.py": {"posterior_of"},
    "models/networks.py": {"as_network"},
    "posteriors/outcomes.py": {"outcome_array"},
}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef

COLD = """
import dubito
from sklearn.datasets import load_diabetes
X, y = load_diabetes(return_X_y=True)
model = dubito.BayesianRegressor(random_state=0).fit(X, y)
model.predict(X), model.predict_interval(X)
"""

CALLS = """
import collections, pathlib, sys
import numpy as np, pandas as pd
import dubito
from dubito import BayesianRegressor, Model

root = str(pathlib.Path(dubito.__file__).parent) + "/"
rng = np.random.default_rng(0)
frame = pd.DataFrame({"a": rng.normal(size=80), "b": rng.choice(["u", "v"], 80)})
y = rng.normal(size=80)
pairs = set()

class Traced(BaseException):
    pass

def traced(*_, **__):
    raise Traced

def place(code):
    name = code.co_filename.removeprefix(root)
    return name.rsplit("/", 1)[0] if "/" in name else name

def profile(frame, event, _):
    if event != "call" or not frame.f_code.co_filename.startswith(root):
        return
    caller = frame.f_back
    while caller is not None and not caller.f_code.co_filename.startswith(root):
        caller = caller.f_back
    if caller is not None and place(caller.f_code) != place(frame.f_code):
        pairs.add((caller.f_code.co_qualname, place(caller.f_code), frame.f_code.co_qualname, place(frame.f_code)))

Model.log_likelihood = Model.weighted_sum = traced  # every objective is scaled there
model = BayesianRegressor()
sys.setprofile(profile)
try:
    model.fit(frame, y)
except Traced:
    pass
finally:
    sys.setprofile(None)
print(len(pairs))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="also what needs a run")
    parser.add_argument(
        "--list", metavar="COUNT", help="print what was counted: probes, borrowed, overridden, twice, sections, doubt"
    )
    parser.add_argument(
        "--types", metavar="PERCENT", type=float, help="only check that so many types are complete; exit code 1 if not"
    )
    arguments = parser.parse_args()
    if arguments.types is not None:
        score = verified_types()
        print(f"types complete (pyright --verifytypes): {score:.1%}, at least {arguments.types:g}% required")
        sys.exit(100 * score < arguments.types)
    trees = {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))
    }
    found = {
        "probes": probes(trees),
        "borrowed": borrowed(trees),
        "overridden": overridden(trees),
        "twice": defined_twice(trees),
        "sections": without_sections(trees),
        "doubt": [line for path in tracked() for line in doubts(path)],
    }
    if arguments.list:
        print(*found[arguments.list], sep="\n")
        return
    annotated, parameters = annotations(trees)
    top = [path for path in PACKAGE.iterdir() if path.is_file()]
    rows = {
        "files in src/dubito beside packages": len(top),
        "code lines of src": sum(code_lines(path) for path in sorted(PACKAGE.rglob("*.py"))),
        "hasattr/getattr probes": len(found["probes"]),
        "methods borrowed from other classes": len(found["borrowed"]),
        "concrete methods overridden": len(found["overridden"]),
        "parameters annotated": f"{annotated} of {parameters} ({annotated / parameters:.1%})",
        "types complete (pyright --verifytypes)": f"{verified_types():.1%}",
        "public functions and classes without numpydoc sections": f"{len(found['sections'])} of {public_count(trees)}",
        "public names defined in two modules": len(found["twice"]),
        '"doubt" in tracked text': len(found["doubt"]),
    }
    if arguments.run:
        rows["pairs of functions that call across folders in a fit"] = run(CALLS)[0].strip()
        rows["seconds of a cold process, fit and interval (median of 3)"] = (
            f"{sorted(run(COLD)[1] for _ in range(3))[1]:.1f}"
        )
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def tracked():
    """Text files of the repository that people read, without recorded results."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in names if "results/" not in name and name != "benchmarks/house.py"]
    return [path for path in paths if path.suffix in PROSE and path.is_file()]


def doubts(path):
    lines = path.read_text().splitlines()
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for number, line in enumerate(lines, 1)
        for _ in re.findall(r"doubt", line, re.IGNORECASE)
    ]


def docstring_lines(tree):
    """Line numbers that are covered by docstrings, including those of attributes."""
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    texts = [n for n in strings if isinstance(n.value.value, str)]
    return {line for n in texts for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}


def code_lines(path):
    source = path.read_text()
    skipped, lines = docstring_lines(ast.parse(source)), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - skipped)


def functions(tree, owner=""):
    """(qualified name, node) of all functions."""
    for node in ast.iter_child_nodes(tree):
        name = f"{owner}{node.name}" if isinstance(node, FUNCTIONS | ast.ClassDef) else owner
        if isinstance(node, FUNCTIONS):
            yield name, node
        yield from functions(node, f"{name}." if name != owner else owner)


def probes(trees):
    found = []
    for file, tree in trees.items():
        skipped = {
            line
            for name, node in functions(tree)
            if name in VALIDATING.get(file, ())
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        found += [
            f"{file}:{node.lineno}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("hasattr", "getattr")
            and node.lineno not in skipped
        ]
    return found


def classes(trees):
    """{name: (file, node)} of all top-level classes."""
    return {
        node.name: (file, node) for file, tree in trees.items() for node in tree.body if isinstance(node, ast.ClassDef)
    }


def borrowed(trees):
    known = classes(trees)
    return [
        f"{file}:{node.lineno}: {owner}: {ast.unparse(node)}"
        for owner, (file, definition) in known.items()
        for node in definition.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name | ast.Attribute)
        and (node.value.value.id if isinstance(node.value.value, ast.Name) else node.value.value.attr) in known
    ]


def abstract(node):
    """Whether a method is abstract: by its decorator, or because it only raises NotImplementedError."""
    if any("abstractmethod" in ast.unparse(each) for each in node.decorator_list):
        return True
    body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


def overridden(trees):
    known, found = classes(trees), []

    def bases(name):
        names = [each.id if isinstance(each, ast.Name) else getattr(each, "attr", "") for each in known[name][1].bases]
        return [each for one in names if one in known for each in (one, *bases(one))]

    def methods(name):
        return {node.name: node for node in known[name][1].body if isinstance(node, FUNCTIONS)}

    for name, (file, _) in known.items():
        for method, node in methods(name).items():
            above = [base for base in bases(name) if method in methods(base) and not abstract(methods(base)[method])]
            if above:
                found.append(f"{file}:{node.lineno}: {name}.{method} overrides {above[0]}'s")
    return found


def annotations(trees):
    """(annotated parameters, all) of all functions, without self and cls."""
    annotated = total = 0
    for tree in trees.values():
        for _, node in functions(tree):
            own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            own = [each for each in own if each is not None and each.arg not in ("self", "cls")]
            annotated, total = annotated + sum(each.annotation is not None for each in own), total + len(own)
    return annotated, total


def defined_twice(trees):
    places = collections.defaultdict(list)
    for file, tree in trees.items():
        if file.startswith("cli"):
            continue
        for node in tree.body:
            if isinstance(node, FUNCTIONS | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(file)
    return [f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(set(files)) > 1]


def public(trees):
    """(file, qualified name, node) of the functions, classes and methods that users call."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    names, modules = set(), set()
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            base = (node.module or "").replace(".", "/")
            for alias in node.names:
                inner = f"{base}/{alias.name}".lstrip("/")
                if f"{inner}.py" in trees or f"{inner}/__init__.py" in trees:
                    modules.add(inner)
                else:
                    names.add((base, alias.name))
    for file, tree in trees.items():
        module = file.removesuffix(".py").removesuffix("/__init__")
        whole = any(module == each or module.startswith(f"{each}/") for each in modules)
        for node in tree.body:
            if not isinstance(node, FUNCTIONS | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not (whole or (module, node.name) in names):
                continue
            yield file, node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, FUNCTIONS) and not inner.name.startswith("_"):
                        yield file, f"{node.name}.{inner.name}", inner


def public_count(trees):
    return sum(1 for _ in public(trees))


def without_sections(trees):
    """Public functions, classes and methods whose docstring has no sections.

    A method without a docstring inherits that of its base, as in ``help``, or the entry of its name in the base's Attributes. A
    property is an attribute, and a class with nothing but a docstring (an exception) has nothing to list.
    """
    known = classes(trees)

    def inherited(owner, method):
        for base in map(ast.unparse, known[owner][1].bases):
            base = base.rsplit(".", 1)[-1].partition("[")[0]
            if base not in known:
                continue
            body = known[base][1].body
            own = [ast.get_docstring(n) for n in body if isinstance(n, FUNCTIONS) and n.name == method]
            if any(isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == method for n in body):
                own.append(ast.get_docstring(known[base][1]))
            text = next((text for text in own if text), None) or inherited(base, method)
            if text:
                return text
        return ""

    def documented(name, node):
        if isinstance(node, ast.ClassDef):
            listed = len(node.body) == 1
        else:
            listed = any("property" in ast.unparse(each) for each in node.decorator_list)
        text, (owner, _, method) = ast.get_docstring(node) or "", name.partition(".")
        return listed or SECTIONS.search(text or (inherited(owner, method) if method else ""))

    return [f"{file}:{node.lineno}: {name}" for file, name, node in public(trees) if not documented(name, node)]


def verified_types():
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pyright", "--verifytypes", "dubito", "--ignoreexternal", "--outputjson"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    return json.loads(answer.stdout)["typeCompleteness"]["completenessScore"]


def run(script):
    """(output, seconds) of a Python script in a process of its own, without cached programs."""
    start = time.perf_counter()
    environment = os.environ | {"DUBITO_CACHE": "0"}
    answer = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return answer.stdout, time.perf_counter() - start


if __name__ == "__main__":
    main()
