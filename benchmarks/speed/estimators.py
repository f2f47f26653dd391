"""Estimators on scikit-learn's diabetes: fit and predict, ours and others', in a cold process or repeated in a warm one."""

import data
import numpy as np


def diabetes(kind):
    """Fits 331 rows and predicts the other 111, with standard deviations if the estimator has them."""
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    X, X_new, y, y_new = train_test_split(*load_diabetes(return_X_y=True), random_state=0)
    make = MODELS[kind]

    def run():
        model = make().fit(X, y)
        answer = model.predict(X_new, **({} if kind in POINTS else {"return_std": True}))
        return answer if kind in POINTS else answer[0]

    return data.Task(run, lambda mean: float(np.sqrt(np.mean((np.ravel(mean) - y_new) ** 2))), 1)


def default():
    from dubito import BayesianRegressor

    return BayesianRegressor(random_state=0)


def maximum_likelihood():
    from dubito import BayesianRegressor, MaximumLikelihood

    return BayesianRegressor(MaximumLikelihood(), random_state=0)


def perceptron():
    """50 units, batch size 64 and 200 epochs, as our maximum likelihood."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPRegressor(
        hidden_layer_sizes=(50,),
        batch_size=64,
        learning_rate_init=1e-2,
        max_iter=200,
        n_iter_no_change=200,
        random_state=0,
    )
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())


def gaussian_process():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kernel = ConstantKernel() * RBF(np.ones(10)) + WhiteKernel()
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=0))


def deep_ensemble():
    """Bayesian deep ensembles (MILE) with default settings and ten members of 50 units."""
    from bde import BdeRegressor
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = BdeRegressor(n_members=10, hidden_layers=[50], epochs=200, lr=1e-2)
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())


MODELS = {
    "default": default,
    "maximum likelihood": maximum_likelihood,
    "perceptron": perceptron,
    "gaussian process": gaussian_process,
    "deep ensemble": deep_ensemble,
}
POINTS = {"perceptron", "deep ensemble"}
