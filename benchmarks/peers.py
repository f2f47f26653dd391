"""Other libraries on the tables of uci.py, beside the default method.

    python3.11 -m venv .venv-tables && .venv-tables/bin/pip install -r benchmarks/peers.txt
    .venv-tables/bin/python benchmarks/peers.py DATA [--peers catboost,ngboost,realmlp] [--sets concrete,...] [--splits 5-9]

dubito is not imported: its rows are those of the method "auto" in results/uci.jsonl, which uci.py writes. Appends one JSON line per
fit to results/peers.jsonl, and writes results/peers.md. CatBoost: 2,000 trees at rate 0.05 for the mean, 1,000 with
RMSEWithUncertainty for the likelihood; NGBoost: 500 trees; RealMLP: pytabkit's tuned defaults, one network, no distribution. The
targets are standardized for each fit; nothing is tuned.
"""

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
from uci_tables import EXTRA, UCI, load, splits_of

RESULTS = pathlib.Path(__file__).parent / "results"
DUBITO = "dubito"
NOTE = (
    "RMSE and NLL in the target's units, means over splits {}-{} ± standard errors of the paired difference from dubito's default; "
    "the same rows for all. dubito's recipes were chosen on validation rows inside the training rows of splits 0-4: some of these "
    "test rows are among them. Nothing was tuned for a table. RealMLP gives no distribution; its fits to the larger tables take "
    "minutes and were not run (–). Made by `python benchmarks/peers.py`."
)


def catboost(x, y, x_new, seed):
    from catboost import CatBoostRegressor

    plain = {"random_seed": seed, "verbose": False, "allow_writing_files": False, "learning_rate": 0.05}
    mean = CatBoostRegressor(iterations=2000, **plain).fit(x, y).predict(x_new)
    both = CatBoostRegressor(iterations=1000, loss_function="RMSEWithUncertainty", **plain).fit(x, y).predict(x_new)
    return mean, both[:, 0], np.sqrt(both[:, 1])


def ngboost(x, y, x_new, seed):
    from ngboost import NGBRegressor

    answer = NGBRegressor(n_estimators=500, verbose=False, random_state=seed).fit(x, y).pred_dist(x_new)
    return answer.loc, answer.loc, answer.scale


def realmlp(x, y, x_new, seed):
    from pytabkit import RealMLP_TD_Regressor

    model = RealMLP_TD_Regressor(random_state=seed, device="cpu", n_threads=2, verbosity=0)
    return model.fit(x, y).predict(x_new).ravel(), None, None


PEERS = {"catboost": catboost, "ngboost": ngboost, "realmlp": realmlp}


def run(data, name, split, peer):
    (x, y), (x_new, y_new) = load(data, name, split)
    shift, scale = y.mean(), y.std()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, center, sd = PEERS[peer](x, (y - shift) / scale, x_new, split)
    seconds, target = time.perf_counter() - start, (y_new - shift) / scale
    nll = None
    if sd is not None:
        nll = float(np.mean(0.5 * ((target - center) / sd) ** 2 + np.log(sd) + 0.5 * np.log(2 * np.pi)) + np.log(scale))
    rmse = float(scale * np.sqrt(np.mean((target - mean) ** 2)))
    return {"set": name, "split": split, "method": peer, "rmse": rmse, "nll": nll, "seconds": seconds}


def read(path):
    """The last line of each table, method and split."""
    rows = map(json.loads, path.read_text().splitlines())
    return {(row["set"], row["method"], row["split"]): row for row in rows if not row.get("choose")}


def write_report(sets, splits):
    ours = {
        (name, DUBITO, split): row
        for (name, method, split), row in read(RESULTS / "uci.jsonl").items()
        if method == "auto"
    }
    found = {**ours, **read(RESULTS / "peers.jsonl")}
    lines = ["# Beside other libraries", "", NOTE.format(*splits), ""]
    for measure in ("rmse", "nll"):
        lines += [f"| {measure.upper()} | {' | '.join([DUBITO, *PEERS])} |", "|---" * (len(PEERS) + 2) + "|"]
        for name in sets:
            cells = [name]
            chosen = list(splits_of(name, *splits))
            own = np.array([found[name, DUBITO, split][measure] for split in chosen])
            for method in (DUBITO, *PEERS):
                values = [found.get((name, method, split), {}).get(measure) for split in chosen]
                if None in values:
                    cells.append("–")
                    continue
                error = f" ± {np.std(values - own, ddof=1) / np.sqrt(len(own)):.2g}" if method != DUBITO else ""
                cells.append(f"{np.mean(values):.4g}{error}")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    (RESULTS / "peers.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--sets", default=",".join([*UCI, *EXTRA]))
    parser.add_argument("--splits", default="5-9", help="first-last")
    chosen = parser.parse_args()
    splits = tuple(map(int, chosen.splits.split("-")))
    sets = chosen.sets.split(",")
    for name in sets:
        for peer in filter(None, chosen.peers.split(",")):
            for split in splits_of(name, *splits):
                row = run(chosen.data, name, split, peer)
                with (RESULTS / "peers.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    write_report(sets, splits)


if __name__ == "__main__":
    main()
