"""Accuracy, calibration and fit time of classifiers by the names of their methods, on digits, with all defaults and 5 stratified folds.

    python benchmarks/digits.py [--methods auto,mc-dropout,...]

All scores are of the 1,797 held-out rows together, ± standard errors over them; so is the ECE, since that of a fold is biased upwards
by its few rows in a bin. "against" is the mean difference of the NLL, row by row, to maximum likelihood with early stopping.
"""

import argparse
import time

import numpy as np
from sklearn.model_selection import StratifiedKFold

import dubito
from dubito import datasets, metrics

REFERENCE = "maximum-likelihood, early stopping"


def held_out(name, X, y):
    """The probabilities of each row by the model that it was held out from, and the seconds of a fit."""
    method, early_stopping = name.removesuffix(", early stopping"), name.endswith("early stopping")
    probs, seconds = np.zeros((len(y), 10)), []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        start = time.perf_counter()
        model = dubito.BayesianClassifier(method, random_state=0, early_stopping=early_stopping)
        model.fit(X[train], y[train])
        seconds.append(time.perf_counter() - start)
        probs[test] = model.predict_proba(X[test])
    return probs, float(np.median(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="auto", help="names of methods, separated by commas")
    X, y = datasets.digits()
    X = X[:, X.max(0) > 0]  # pixels that are never inked
    reference = None
    print("| method | NLL | against | ECE | accuracy | seconds a fit |\n|---|---|---|---|---|---|")
    for name in [REFERENCE, *parser.parse_args().methods.split(",")]:
        probs, seconds = held_out(name, X, y)
        logits = np.log(np.maximum(probs, 1e-30)).astype(np.float32)[None]
        answer = dubito.Predictive(dubito.Categorical(classes=10), {"logits": logits}, np.zeros(1), np.ones(1))
        losses = -np.log(np.maximum(probs[np.arange(len(y)), y], 1e-30))
        reference = losses if reference is None else reference
        apart = losses - reference
        error = np.std(losses) / np.sqrt(len(y)), np.std(apart) / np.sqrt(len(y))
        accuracy = metrics.accuracy(answer, y)
        print(
            f"| {name} | {losses.mean():.4f} ± {error[0]:.4f} | {apart.mean():+.4f} ± {error[1]:.4f} | "
            f"{metrics.ece(answer, y).value:.4f} | {accuracy.value:.4f} ± {accuracy.se:.4f} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
