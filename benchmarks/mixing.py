"""Mixing of chains on a difficult posterior: yacht (UCI, split 0; 277 rows), network 6-10-1 (tanh), learned noise, 4 chains.

    python benchmarks/mixing.py DATA [--settings HMC;NUTS]    # half an hour

DATA: as for ``uci.py``. Writes results/mixing.md: R-hat (maximum, 95 % quantile, median) and the minimum
effective sample size of predictions at the 31 held-out rows, the mean log τ of each chain, the held-out NLL in standardized units,
and seconds including compilation. NUTS of two other libraries, started from the prior, has R-hat 1.9 to 2.9 here after 4 × 2,000
draws.
"""

import argparse
import pathlib
import time
import warnings

import jax
import numpy as np
from sklearn.preprocessing import StandardScaler
from uci_tables import load

import dubito
from dubito import diagnostics, metrics

RESULTS = pathlib.Path(__file__).parent / "results"
SETTINGS = {
    "HMC": dubito.HMC(),
    "NUTS": dubito.NUTS(),
    "MCLMC": dubito.MCLMC(),
    "NUTS, annealed": dubito.NUTS(draws=2000, warmup=1000, anneal=2000),
    "NUTS, thin=20": dubito.NUTS(warmup=1000, thin=20),
    "MCLMC, thin=400": dubito.MCLMC(draws=1000, warmup=20_000, thin=400),
    "MCLMC, thin=4000": dubito.MCLMC(draws=1000, warmup=20_000, thin=4000),
}


def run(data, method):
    """The cells of one row."""
    (x, y), (x_new, y_new) = load(pathlib.Path(data), "yacht", 0)
    scale_x, scale_y = StandardScaler().fit(x), StandardScaler().fit(y[:, None])
    x, x_new, y, y_new = scale_x.transform(x), scale_x.transform(x_new), scale_y.transform(y[:, None]), y_new[:, None]
    y_new = scale_y.transform(y_new)
    network = dubito.mlp(x.shape[1], (10,), 1, "tanh")
    model = dubito.Model(network, dubito.Gaussian(), dubito.Normal(by_network=True))
    start = time.perf_counter()
    posterior = dubito.fit(model, x, y, method, key=jax.random.key(1))
    seconds = time.perf_counter() - start
    answer = dubito.predict(posterior, x_new, key=jax.random.key(0))
    unsure = diagnostics.monte_carlo(answer, posterior, y_new)
    log_tau = np.asarray(posterior.params["likelihood"]["log_precision"]).reshape(posterior.chains, -1).mean(1)
    rhat = [f"{value:.2f}" for value in (unsure.rhat.max(), np.quantile(unsure.rhat, 0.95), np.median(unsure.rhat))]
    nll = metrics.nll(answer, y_new).value
    return [
        *rhat,
        f"{unsure.ess.min():.0f}",
        ", ".join(f"{one:.2f}" for one in log_tau),
        f"{nll:.2f}",
        f"{seconds:.0f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--settings", default=";".join(SETTINGS), help="separated by ;")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    head = ["settings", "R-hat", "95 %", "median", "ESS", "log τ of the chains", "NLL", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in options.settings.split(";"):
        lines.append("| " + " | ".join([name, *run(options.data, SETTINGS[name])]) + " |")
        print(lines[-1], flush=True)
    text = [f"# {__doc__.splitlines()[0]}\n", __doc__[__doc__.index("DATA:") :].strip() + "\n", *lines]
    (RESULTS / "mixing.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
