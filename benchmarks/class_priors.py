"""Is the underconfidence of classes the posterior's or the approximations'? HMC on digits under priors of several scales, beside MC dropout
and Bayes by Backprop under the same.

    python benchmarks/class_priors.py [--rows 500] [--scales 1,5] [--methods hmc,mc-dropout,bayes-by-backprop]

One layer of 50 ReLU units, trained on the first rows of a stratified split; the other rows are scored. Confidence is the mean
probability of the most probable class: below the accuracy, the classifier is underconfident.
"""

import argparse
import time

import numpy as np
from sklearn.model_selection import train_test_split

import dubito
from dubito import datasets, metrics
from dubito.evaluation.diagnostics import monte_carlo

SETTINGS = {"hmc": dubito.HMC(draws=500, warmup=500)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--scales", default="1,5")
    parser.add_argument("--methods", default="hmc,mc-dropout,bayes-by-backprop")
    chosen = parser.parse_args()
    X, y = datasets.digits()
    X = X[:, X.max(0) > 0]  # pixels that are never inked
    X, X_test, y, y_test = train_test_split(X, y, train_size=chosen.rows, stratify=y, random_state=0)
    print("| method | prior scale | NLL | ECE | accuracy | confidence | R-hat of new rows' predictions | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for method in chosen.methods.split(","):
        for scale in map(float, chosen.scales.split(",")):
            prior = dubito.Normal(scale, by_network=True)
            start = time.perf_counter()
            model = dubito.BayesianClassifier(
                SETTINGS.get(method, method), random_state=0, hidden=(50,), activation="relu", prior=prior
            )
            answer = model.fit(X, y).predictive(X_test)
            spent = time.perf_counter() - start
            nll, accuracy = metrics.nll(answer, y_test), metrics.accuracy(answer, y_test)
            rhat = monte_carlo(answer, model.posterior_).rhat
            cells = [f"{nll.value:.3f} ± {nll.se:.3f}", f"{metrics.ece(answer, y_test).value:.3f}"]
            cells += [f"{accuracy.value:.3f}", f"{metrics.confidence(answer, y_test).value:.3f}"]
            cells += ["–" if rhat is None else f"{np.quantile(rhat, 0.95):.2f} (95 %)", f"{spent:.0f}"]
            print(f"| {method} | {scale:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
