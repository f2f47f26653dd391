"""The recipe of each method: network, prior and length of training, where users do not choose."""

import jax
import numpy as np
import pytest

import dubito
from dubito.methods.default import default_recipe
from dubito.training.method import TASKS, Method, get_recipe

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))


@pytest.mark.parametrize("name", [name for name, method in dubito.METHODS.items() if method is not None])
def test_every_method_has_a_recipe_for_both_tasks(name):
    for task in TASKS:
        recipe = get_recipe(dubito.METHODS[name], task)
        assert recipe.prior_scale > 0 and recipe.hidden and recipe.epochs(10**9) == recipe.least_epochs


def test_a_wrapper_has_the_recipe_of_its_method():
    assert get_recipe(dubito.Ensemble(dubito.MCDropout(), 3), "regression") is dubito.MCDropout.recipes["regression"]


class Reached(Exception):
    """Raised in place of a fit, with the model that it was given."""


def stop(model, *rest, **options):
    raise Reached(model)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["auto", "mc-dropout", "bayes-by-backprop", "map", "ensemble"])
def test_estimators_take_the_recipe_and_the_users_choices_first(name, task, monkeypatch):
    monkeypatch.setattr("dubito.estimators.base.fit", stop)
    kind, y = (dubito.BayesianRegressor, X[:, 0]) if task == "regression" else (dubito.BayesianClassifier, X[:, 0] > 0)
    recipe = default_recipe(len(X), task) if name == "auto" else get_recipe(dubito.METHODS[name], task)
    prior = dubito.Normal(0.7)
    chosen = {"hidden": 4, "activation": "tanh", "periodic": 2, "prior": prior}
    expected = {
        "recipe": ({}, recipe[:3], dubito.Normal(recipe.prior_scale, by_network=True)),
        "choices": (chosen, ((4,), "tanh", 2), prior),
    }
    for options, network, prior in expected.values():
        with pytest.raises(Reached) as reached:
            kind(name, random_state=0, **options).fit(X, y)
        (model,) = reached.value.args
        assert (model.network.hidden, model.network.activation, model.network.periodic) == network
        start = model.network.last_variance, model.network.wave_scale
        assert start == (recipe.last_variance, recipe.wave_scale) and model.prior == prior
        assert model.network.input_limit == 10


def test_large_tables_have_a_deeper_network_by_default():
    assert [default_recipe(rows).hidden for rows in (3999, 4000)] == [(128, 128), (128, 128, 128)]
    assert default_recipe(10**6, "classification") == default_recipe(10, "classification")


def test_the_prior_scale_is_that_of_the_layers_weights_alone():
    """Of periodic features it is that at the start, whatever the prior's scale; of biases 1."""
    network = dubito.mlp(2, (4,), periodic=3)
    params = network.init(jax.random.key(0))
    one, three = (network.scales(params, scale) for scale in (1.0, 3.0))
    assert three["layer_0"]["w"] == pytest.approx(3 * one["layer_0"]["w"]) and one["layer_0"]["w"] == 8**-0.5
    assert three["periodic"] == one["periodic"] and three["layer_1"]["b"] == one["layer_1"]["b"] == 1


def test_methods_have_no_recipe_unless_they_run_the_loop_or_declare_one():
    assert Method.recipes is None and dubito.Ensemble.recipes is None
