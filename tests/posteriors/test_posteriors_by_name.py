"""The registry of posteriors; ``test_registries`` adds one."""

import pytest

import dubito
from dubito.estimators.files import posterior_file
from dubito.posteriors import by_name
from dubito.posteriors.base import Posterior


def test_posteriors_of_the_registry_are_those_of_the_model_file():
    """The posterior of ``LaplaceApproximation`` is defined beside that method, above the registry."""
    assert set(posterior_file.POSTERIORS.values()) == {*by_name.POSTERIORS, dubito.LaplacePosterior}


@pytest.mark.parametrize("kind", by_name.POSTERIORS, ids=lambda kind: kind.__name__)
def test_posteriors_are_final_classes_of_the_contract(kind):
    assert issubclass(kind, Posterior) and not kind.__abstractmethods__
    assert not any(issubclass(other, kind) for other in by_name.POSTERIORS if other is not kind)
    assert (kind.file_values is not Posterior.file_values) == bool(kind.file_keys)
