"""The registry of likelihoods; ``test_registries`` adds one."""

import pytest

from dubito.estimators.files import codec
from dubito.models.likelihoods import by_name


def test_classes_of_the_registry_are_those_of_the_model_file():
    assert {entry.kind for entry in by_name.LIKELIHOODS.values()} == set(codec.LIKELIHOODS)


@pytest.mark.parametrize(("name", "count", "attributes"), [
    ("gaussian", 3, {"targets": 3, "columns": 3}),
    ("censored", 4, {"targets": 2, "columns": 4}),
    ("censored", 1, {"targets": 1, "columns": 2}),
    ("poisson", 2, {"targets": 2}),
    ("bernoulli", 2, {"classes": 2}),
    ("ordered", 5, {"classes": 5}),
])  # fmt: skip
def test_make_sets_the_number_of_targets_or_classes(name, count, attributes):
    likelihood = by_name.get_likelihood(name).make(count)
    assert {attribute: getattr(likelihood, attribute) for attribute in attributes} == attributes
