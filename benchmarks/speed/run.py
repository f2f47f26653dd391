"""Speed compared with other libraries: the list of works with their goals, and the command that runs them.

python benchmarks/speed/run.py [--only NAME] [--pairs 5] [--smoke] [--list]     (scripts/bench makes the environment)
"""

import argparse
import pathlib
import sys

from pairs import HERE, Side, Work, measure
from report import write

MICRO, MILLI = 1e-6, 1e-3
TABLE, IMAGES = {"epochs": 400}, {"rows": 12_800, "epochs": 3}
FEW = {"rows": 51, "columns": 13, "hidden": [50], "draws": 10_000}
MANY = {"rows": 100_000, "columns": 10, "hidden": [64, 64], "draws": 100}
ROWS = {"draws as rows of one pass": "repeated"}
REWRITES = ROWS | {"vmap over draws": "vmapped"}
SMALLEST = {"epochs": 2, "rows": 512, "draws": 4, "fits": 2, "batch": 512}  # what --smoke makes of the options


def ours(name, function, **options):
    return Side(f"dubito, {name}", "ours", function, options)


def torch(name, function, processes=1, module="pytorch", **options):
    return Side(f"PyTorch, {name}", module, function, options, processes)


def numpyro(name, processes=1, **options):
    return Side(f"NumPyro SVI, {name}", "numpyro_svi", "backprop_fits", options, processes)


def layers(name, function):
    return Side(name, "torch_layers", function, IMAGES)


def diabetes(name, kind, cold):
    return Side(name, "estimators", "diabetes", {"kind": kind}, cold=cold)


def trained(name, network, rows, draws, rewrites):
    """MC dropout of a trained module beside PyTorch's loop (goal 3), and the ``rewrites`` of it."""
    options, module = {"network": network, "rows": rows, "draws": draws}, "trained_networks"
    others = [(torch("the loop", "loop", module=module, **options), 3)]
    others += [(torch(text, function, module=module, **options), None) for text, function in rewrites.items()]
    ours = Side("dubito, from_torch and wrap", module, "wrapped", options)
    return Work(
        f"{draws} draws of MC dropout of a trained {name}: mean and standard deviation", "s", 1, ours, tuple(others)
    )


def python(name, code):
    return Side(name, command=(sys.executable, "-c", code))


def estimators(cold):
    others = (
        diabetes("scikit-learn MLPRegressor", "perceptron", cold),
        diabetes("scikit-learn GaussianProcessRegressor", "gaussian process", cold),
        diabetes("sklearn-contrib-bde BdeRegressor", "deep ensemble", cold),
        diabetes("dubito, MaximumLikelihood()", "maximum likelihood", cold),
    )
    name = "fit and predict diabetes, " + ("a cold process" if cold else "again in a warm process")
    return Work(name, "s", 1, diabetes("dubito, the default", "default", cold), tuple((side, None) for side in others))


DUBITO = str(pathlib.Path(sys.executable).with_name("dubito"))
FIT = (DUBITO, "fit", str(HERE.parent.parent / "src" / "dubito" / "tables" / "data" / "co2.csv"), "--target", "co2", "--method", "map",
       "--set", "epochs=20", "-o", "model.dubito")  # fmt: skip

WORKS = (
    Work(
        "MC dropout, 455 × 13, 50 units, batch 128, 400 epochs, 20 fits",
        "µs a step and model",
        MICRO,
        ours("20 members", "dropout_fits", fits=20, **TABLE),
        (
            (torch("the loop with a DataLoader", "dropout_loop", fits=3, loader=True, **TABLE), 30),
            (torch("the loop, rows indexed", "dropout_loop", fits=3, **TABLE), 30),
            (torch("that loop in two processes", "dropout_loop", processes=2, fits=2, **TABLE), 15),
            (torch("20 fits as one wide network", "dropout_wide", fits=20, **TABLE), None),
        ),
    ),
    Work(
        "Bayes by Backprop, 455 × 13, 50 units, weight noise, one fit",
        "µs a step",
        MICRO,
        ours("weight noise", "backprop_fits", fits=1, noise="draw", **TABLE),
        ((numpyro("one fit", fits=1, **TABLE), 4),),
    ),
    Work(
        "Bayes by Backprop, 455 × 13, 50 units, local, one fit",
        "µs a step",
        MICRO,
        ours("local", "backprop_fits", fits=1, noise="local", **TABLE),
        ((numpyro("one fit", fits=1, **TABLE), 4),),
    ),
    Work(
        "Bayes by Backprop, 455 × 13, 50 units, weight noise, 20 fits",
        "µs a step and model",
        MICRO,
        ours("20 members", "backprop_fits", fits=20, noise="draw", **TABLE),
        ((numpyro("10 fits in each of two processes", processes=2, fits=10, **TABLE), None),),
    ),
    Work(
        "Bayes by Backprop, 784-400-400-10, batch 128, weight noise",
        "ms a step",
        MILLI,
        ours("weight noise", "image_fit", kind="weight noise", **IMAGES),
        (
            (layers("torchbnn", "torchbnn"), 2),
            (layers("bayesian-torch", "bayesian_torch"), 2),
            (layers("BLiTZ", "blitz"), 2),
            (torch("by hand", "backprop_image_fit", local=False, **IMAGES), 2),
            (torch("by hand, compiled", "backprop_image_fit", local=False, compiled=True, **IMAGES), 2),
        ),
    ),
    Work(
        "Bayes by Backprop, 784-400-400-10, batch 128, local",
        "ms a step",
        MILLI,
        ours("local", "image_fit", kind="local", **IMAGES),
        (
            (torch("by hand", "backprop_image_fit", local=True, **IMAGES), 2),
            (torch("by hand, compiled", "backprop_image_fit", local=True, compiled=True, **IMAGES), 2),
            # at most 2.2 times our own deterministic step
            (ours("deterministic", "image_fit", kind="deterministic", **IMAGES), 1 / 2.2),
        ),
    ),
    Work(
        "deterministic training, 784-400-400-10, batch 128, Adam",
        "ms a step",
        MILLI,
        ours("maximum likelihood", "image_fit", kind="deterministic", **IMAGES),
        (
            (torch("the loop", "image_fit", **IMAGES), 1),
            (torch("compiled, fused Adam", "image_fit", compiled=True, **IMAGES), None),
        ),
    ),
    Work(
        "10,000 draws of MC dropout, 51 rows × 13, 50 units: mean and standard deviation",
        "ms",
        MILLI,
        ours("predict", "predictions", **FEW),
        (
            (torch("the loop", "loop", module="torch_predictions", threads=1, **FEW), 5),
            (torch("draws as rows of one pass", "repeated", module="torch_predictions", **FEW), 5),
            (torch("vmap over draws", "vmapped", module="torch_predictions", **FEW), 5),
            (torch("one mask a draw, one product", "one_product", module="torch_predictions", **FEW), None),
        ),
    ),
    Work(
        "100 draws of MC dropout, 100,000 rows × 10, 2 × 64 units: mean and standard deviation",
        "s",
        1,
        ours("predict", "predictions", **MANY),
        (
            (torch("the loop", "loop", module="torch_predictions", **MANY), 15),
            (torch("one mask a draw", "shared_masks", module="torch_predictions", **MANY), 1.2),
            (torch("the same, compiled", "shared_masks", module="torch_predictions", form="compiled", **MANY), 1.2),
        ),
    ),
    trained("perceptron, 50 rows × 10, 2 × 128 units", "perceptron", 50, 100, REWRITES),
    trained("perceptron, 100,000 rows × 10, 2 × 128 units", "perceptron", 100_000, 100, {}),
    trained("convolutional network, 500 images of 28 × 28", "convolutional", 500, 50, REWRITES),
    trained("transformer encoder, 1,000 rows of 16 tokens", "encoder", 1000, 50, ROWS),
    Work(
        "10⁶ rows × 10, one network of 64 units, 8 draws, in memory: mean and standard deviation",
        "rows a second",
        1,
        ours("BayesianRegressor.predict", "table_predictions", rows=1_000_000),
        rate=True,
    ),
    estimators(cold=True),
    estimators(cold=False),
    Work("importing", "s", 1, python("import dubito", "import dubito"), ((python("import jax", "import jax"), None),)),
    Work("dubito --help", "s", 1, Side("dubito --help", command=(DUBITO, "--help"))),
    Work(
        "dubito fit of a small table in a second process",
        "s",
        1,
        Side("caches kept from the first", command=FIT),
        ((Side("the first process, caches empty", command=FIT, cache="empty"), None),),
    ),
)


def main():
    parser = argparse.ArgumentParser(
        description="Speed compared with other libraries, measured alternately; writes benchmarks/results/speed.md."
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="works whose name holds this; may be repeated"
    )
    parser.add_argument("--pairs", type=int, default=5, help="how often each side takes its turn (5)")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes, one pair, nothing written: does everything run?"
    )
    parser.add_argument("--list", action="store_true", help="name the works and end")
    arguments = parser.parse_args()
    chosen = [work for work in WORKS if not arguments.only or any(part in work.name for part in arguments.only)]
    if not chosen:
        parser.error(f"no work's name holds {arguments.only}; --list names them")
    if arguments.list:
        print("\n".join(work.name for work in chosen))
        return
    for work in chosen:
        print(work.name, flush=True)
        work = shrunk(work) if arguments.smoke else work
        found = measure(work, 1 if arguments.smoke else arguments.pairs, lambda text: print(text, flush=True))
        for side in found["sides"]:
            if "failed" in side:
                print(f"  {side['name']} FAILED: {side['failed']}")
            elif arguments.smoke:
                print(f"  {side['name']}: reached {side['reached']}")
        if not arguments.smoke:
            write(found, HERE.parent / "results", [one.name for one in WORKS])


def shrunk(work):
    def smaller(side):
        options = {k: min(v, SMALLEST[k]) if k in SMALLEST else v for k, v in side.options.items()}
        return Side(**(vars(side) | {"options": options}))

    theirs = tuple((smaller(side), goal) for side, goal in work.theirs)
    return Work(**(vars(work) | {"ours": smaller(work.ours), "theirs": theirs}))


if __name__ == "__main__":
    main()
