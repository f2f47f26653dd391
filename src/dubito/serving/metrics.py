"""What Prometheus reads: counts of requests, a histogram of their latencies, rows, and the share of uncertain ones."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
HELP = {
    "dubito_requests_total": ("counter", "Requests, by path and status."),
    "dubito_request_seconds": ("histogram", "Seconds from a request to the end of its answer, by path."),
    "dubito_rows_total": ("counter", "Rows predicted."),
    "dubito_changed_values_total": (
        "counter",
        "Values that did not occur in fit, by column: missing values in columns that had none (missing), and "
        "categories not seen (unknown).",
    ),
    "dubito_uncertain_rows_total": (
        "counter",
        "Rows whose epistemic uncertainty was above the 99 % quantile of held-out rows, by target.",
    ),
    "dubito_uncertain_share": (
        "gauge",
        "The share of uncertain rows of the current model, by target: about 0.01 without drift.",
    ),
    "dubito_uncertainty_quantile": (
        "gauge",
        "The 99 % quantile of the epistemic uncertainty of held-out rows, by target.",
    ),
    "dubito_model_loads_total": ("counter", "Loads of the model file, by result (loaded, failed)."),
    "dubito_model_loaded_seconds": ("gauge", "When the current model was loaded, in seconds since 1970."),
    "dubito_model_problem": ("gauge", "1 if the model file has changed and cannot be loaded, 0 otherwise."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts, which any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._seconds: dict[str, Counter[int]] = {}  # requests of a path in each bucket
        self._sums: Counter[str] = Counter()
        self._current: dict[str, tuple[int, int]] = {}  # (rows, uncertain rows) of the current model, by target

    def add(self, name: str, number: int = 1, **labels: str) -> None:
        """Add to a counter.

        Parameters
        ----------
        name : str
            Its name.
        number : int
            What to add.
        **labels : str
            Its labels.
        """
        with self._lock:
            self._counts[name, tuple(labels.items())] += number

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge.

        Parameters
        ----------
        name : str
            Its name.
        value : float
            Its value.
        **labels : str
            Its labels.
        """
        with self._lock:
            self._gauges[name, tuple(labels.items())] = float(value)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        path : str
            One of few.
        status : int
            The HTTP status.
        seconds : float
            How long it took.
        """
        self.add("dubito_requests_total", path=path, status=str(status))
        place = next((place for place, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        with self._lock:
            self._seconds.setdefault(path, Counter())[place] += 1
            self._sums[path] += seconds  # type: ignore[assignment]

    def start_model(self, quantiles: Mapping[str, float], loaded: float) -> None:
        """Begin to count for another model.

        Parameters
        ----------
        quantiles : mapping
            The 99 % quantile of each target; empty if it is unknown.
        loaded : float
            When it was loaded, in seconds since 1970.
        """
        gone = ("dubito_uncertain_share", "dubito_uncertainty_quantile")
        with self._lock:
            self._current = {target: (0, 0) for target in quantiles}
            self._gauges = {key: value for key, value in self._gauges.items() if key[0] not in gone}
        for target, value in quantiles.items():
            self.set("dubito_uncertainty_quantile", value, target=target)
        self.add("dubito_model_loads_total", result="loaded")
        self.set("dubito_model_loaded_seconds", loaded)
        self.set("dubito_model_problem", 0)

    def fail_model(self) -> None:
        """Count a model file that cannot be loaded."""
        self.add("dubito_model_loads_total", result="failed")
        self.set("dubito_model_problem", 1)

    def solve_problem(self) -> None:
        """The model file is again the one that was loaded."""
        self.set("dubito_model_problem", 0)

    def add_uncertain(self, rows: int, uncertain: Mapping[str, int]) -> None:
        """Count the uncertain ones among predicted rows.

        Parameters
        ----------
        rows : int
            The number of rows.
        uncertain : mapping
            How many of them are above the quantile, for each target.
        """
        for target, number in uncertain.items():
            self.add("dubito_uncertain_rows_total", number, target=target)
            with self._lock:
                known = self._current.get(target)
                if known is None:  # another model has begun meanwhile
                    continue
                total, above = self._current[target] = known[0] + rows, known[1] + number
            if total:
                self.set("dubito_uncertain_share", above / total, target=target)

    def text(self) -> str:
        """All counts.

        Returns
        -------
        str
            In Prometheus's text format 0.0.4.
        """
        with self._lock:
            counts, gauges, sums = dict(self._counts), dict(self._gauges), dict(self._sums)
            seconds = {path: Counter(found) for path, found in self._seconds.items()}
        lines: dict[str, list[str]] = {name: [] for name in HELP}
        for (name, labels), value in sorted({**counts, **gauges}.items()):
            lines[name].append(_line(name, labels, value))
        for path, found in sorted(seconds.items()):
            lines["dubito_request_seconds"] += _histogram(path, found, sums[path])
        return "".join(
            f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n" + "".join(f"{line}\n" for line in lines[name])
            for name, (kind, help_text) in HELP.items()
            if lines[name]
        )


def _histogram(path: str, found: Mapping[int, int], total: float) -> list[str]:
    name, bounds = "dubito_request_seconds", [*map(repr, BUCKETS), "+Inf"]
    each: Sequence[int] = [*accumulate(found.get(place, 0) for place in range(len(bounds)))]
    lines = [
        _line(f"{name}_bucket", (("path", path), ("le", bound)), count)
        for bound, count in zip(bounds, each, strict=True)
    ]
    labels = (("path", path),)
    return [*lines, _line(f"{name}_sum", labels, total), _line(f"{name}_count", labels, each[-1])]


def _line(name: str, labels: Labels, value: Any) -> str:
    text = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels)
    return f"{name}{{{text}}} {value!r}" if text else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
