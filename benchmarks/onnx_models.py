"""Seconds of an exported model in onnxruntime, beside `predict` of the model itself, on the same rows in the same run.

    pip install 'dubito[onnx]' onnxruntime
    python benchmarks/onnx_models.py

The default regressor (20 networks) of the diabetes table (442 rows, 10 columns), and MC dropout with 100 draws. Both give mean, both
standard deviations and a 90 % interval. Medians of pairs, after one call of each; the largest difference is in standard deviations.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

import dubito
from dubito.posteriors.readings import prediction_columns

PAIRS = 5
METHODS = {"auto": "auto", "mc-dropout": dubito.MCDropout(epochs=400)}


def main():
    X, y = dubito.datasets.diabetes()
    print("method       rows      predict   onnxruntime   ratio   difference")
    for name, method in METHODS.items():
        model = dubito.BayesianRegressor(method, random_state=0).fit(X, y)
        with tempfile.TemporaryDirectory() as folder:
            written = model.to_onnx(Path(folder) / "model.onnx")
            session = onnxruntime.InferenceSession(Path(folder) / "model.onnx")
        print(f"{name}: {written.draws} draws, {written.size / 1e6:.1f} MB")
        names = [output.name for output in session.get_outputs()]
        for count in (1, 1_000, 10_000):
            rows = np.resize(X, (count, X.shape[1])).astype(float)

            def predict(rows=rows, model=model):
                return prediction_columns(model.predictive(rows))

            def run(rows=rows, session=session, names=names):
                return dict(zip(names, session.run(names, {"x": rows}), strict=True))

            expected, found = predict(), run()
            scale = expected["std"].mean()
            error = max(np.abs(found[key].ravel() - value).max() / scale for key, value in expected.items())
            times = [[seconds(each) for each in (predict, run)] for _ in range(PAIRS)]
            ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
            ratio = statistics.median(one / other for one, other in times)
            print(
                f"{name:11} {count:7,} {1000 * ours:9.1f}ms {1000 * theirs:11.1f}ms {ratio:7.2f}   {error:.0e}",
                flush=True,
            )


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
