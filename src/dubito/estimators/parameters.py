"""The parameters of estimators, with those of their methods."""

import inspect
from abc import ABC
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator

from dubito.methods.by_name import method_classes, method_params, resolve_method, with_setting
from dubito.training.method import check_call


class InitSignature:
    """The signature of a class: that of its ``__init__``."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        return inspect.Signature([*inspect.signature(owner.__init__).parameters.values()][1:])


class EstimatorParameters(BaseEstimator, ABC):
    """Base of the estimators that knows their parameters alone.

    Attributes
    ----------
    task : str
        "regression" or "classification".
    method : object
        A method, its class or its name; None is the default.
    """

    task: str
    method: Any

    __signature__: ClassVar[Any] = InitSignature()  # scikit-learn and editors read it: that of __new__ says nothing

    def __new__(cls, *args: Any, **params: Any) -> Self:
        try:
            check_call(cls, args, params)
        except TypeError:
            settings = {field.name for method in method_classes() for field in fields(method)}  # type: ignore[arg-type]
            for name in params:
                if name in settings and name not in cls._get_param_names():
                    what = f"{cls.__name__} has no parameter {name!r}, which is a setting of methods"
                    raise TypeError(f"{what}: write method=MAP({name}={params[name]!r}).") from None
            raise
        return object.__new__(cls)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor.

        Parameters
        ----------
        deep : bool
            Whether to add the method's settings, such as ``method__rate``.

        Returns
        -------
        dict
            The values by name.
        """
        found = BaseEstimator.get_params(self, deep=False)
        if deep and is_dataclass(self.method):
            found |= method_params(self.method, "method__")
        return found

    def _get_params_html(self, *_: Any, **options: Any) -> Any:
        """The parameters for a notebook, without the method's settings: scikit-learn would show their defaults as set."""
        return BaseEstimator._get_params_html(self, False, **options)

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``method__rate=0.1`` replaces the method by one with that setting.

        Parameters
        ----------
        **params : object
            Values by name.

        Returns
        -------
        Self
            The estimator itself.
        """
        nested = {name: params.pop(name) for name in list(params) if name.startswith("method__")}
        BaseEstimator.set_params(self, **params)
        for name, value in nested.items():
            self.method = with_setting(self._resolved_method(), name.split("__")[1:], value)
        return self

    def _resolved_method(self) -> Any:
        """The method itself of a name or a class; None is the default."""
        return resolve_method(self.method, self.task)
