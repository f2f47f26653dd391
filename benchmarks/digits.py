"""Accuracy, calibration and fit time of the default classifier on digits, with all defaults and 5 stratified folds.

    python benchmarks/digits.py

Scores are means over the folds, with standard errors over all 1,797 held-out rows.
"""

from sklearn.model_selection import StratifiedKFold

import dubito
from dubito import cross_validation, datasets, metrics


def main():
    X, y = datasets.digits()
    X = X[:, X.max(0) > 0]  # pixels that are never inked
    rows = cross_validation.compare({"default": dubito.BayesianClassifier(random_state=0)}, X, y, folds=5, seed=0)
    for key, score in rows[0].scores.items():
        print(f"{key:>10} {score.value:.4f} ± {score.se:.4f}")
    print(f"{'seconds':>10} {rows[0].seconds:.1f} a fit")
    print(f"{'pooled ECE':>10} {pooled_ece(X, y):.4f}")


def pooled_ece(X, y):
    """ECE of all held-out rows in common bins. The ECE of a single fold is biased upwards, since its bins contain few rows."""
    import numpy as np

    probs = np.zeros((len(y), 10))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        probs[test] = dubito.BayesianClassifier(random_state=0).fit(X[train], y[train]).predict_proba(X[test])
    logits = np.log(np.maximum(probs, 1e-30)).astype(np.float32)[None]
    answer = dubito.Predictive(dubito.Categorical(classes=10), {"logits": logits}, np.zeros(1), np.ones(1))
    return metrics.ece(answer, y).value


if __name__ == "__main__":
    main()
