"""The counts that Prometheus reads: its text format, its histogram, and the share of uncertain rows."""

import re
import threading

from dubito.serving.metrics import BUCKETS, HELP, Metrics

LINE = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


def values(metrics):
    """{line without its value: value} of the text, whose format is checked."""
    found, known = {}, set()
    for line in metrics.text().splitlines():
        if line.startswith("#"):
            known.add(line.split()[2])
            continue
        match = LINE.match(line)
        assert match, line
        assert re.sub("_(bucket|sum|count)$", "", match[1]) in known or match[1] in known
        found[line.rpartition(" ")[0]] = float(match[3])
    return found


def test_no_counts_are_an_empty_text():
    assert Metrics().text() == ""


def test_requests_are_counted_by_path_and_status_with_a_cumulative_histogram():
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.004, 20.0):
        metrics.add_request("/predict", 200, seconds)
    metrics.add_request("/predict", 422, 0.002)
    found = values(metrics)
    assert found['dubito_requests_total{path="/predict",status="200"}'] == 4
    assert found['dubito_requests_total{path="/predict",status="422"}'] == 1
    each = [found[f'dubito_request_seconds_bucket{{path="/predict",le="{bound!r}"}}'] for bound in BUCKETS]
    assert each == [2, 3, *[4] * (len(BUCKETS) - 2)]
    assert found['dubito_request_seconds_bucket{path="/predict",le="+Inf"}'] == 5
    assert found['dubito_request_seconds_count{path="/predict"}'] == 5
    assert abs(found['dubito_request_seconds_sum{path="/predict"}'] - 20.0075) < 1e-9


def test_the_share_of_uncertain_rows_is_that_of_the_current_model():
    metrics = Metrics()
    metrics.start_model({"price": 0.5}, 1000.0)
    metrics.add_uncertain(100, {"price": 3})
    metrics.add_uncertain(100, {"price": 0})
    found = values(metrics)
    assert found['dubito_uncertain_share{target="price"}'] == 0.015
    assert found['dubito_uncertain_rows_total{target="price"}'] == 3
    assert found['dubito_uncertainty_quantile{target="price"}'] == 0.5
    metrics.fail_model()
    assert values(metrics)["dubito_model_problem"] == 1
    metrics.start_model({"cost": 2.0}, 2000.0)
    found = values(metrics)
    assert 'dubito_uncertain_share{target="price"}' not in found
    assert found['dubito_uncertain_rows_total{target="price"}'] == 3
    assert found["dubito_model_loaded_seconds"] == 2000
    assert found["dubito_model_problem"] == 0
    assert found['dubito_model_loads_total{result="loaded"}'] == 2
    assert found['dubito_model_loads_total{result="failed"}'] == 1
    metrics.start_model({}, 3000.0)
    assert not any(name.startswith(("dubito_uncertain_share", "dubito_uncertainty")) for name in values(metrics))


def test_labels_are_escaped():
    metrics = Metrics()
    metrics.add("dubito_changed_values_total", what="unknown", column='a"b\\c\nd')
    assert 'column="a\\"b\\\\c\\nd"' in metrics.text()
    assert list(values(metrics).values()) == [1]


def test_no_count_is_lost_among_threads():
    metrics = Metrics()
    metrics.start_model({"y": 1.0}, 0.0)

    def work():
        for _ in range(500):
            metrics.add_request("/predict", 200, 0.003)
            metrics.add_uncertain(2, {"y": 1})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = values(metrics)
    assert found['dubito_requests_total{path="/predict",status="200"}'] == 4000
    assert found['dubito_request_seconds_count{path="/predict"}'] == 4000
    assert found['dubito_uncertain_rows_total{target="y"}'] == 4000
    assert found['dubito_uncertain_share{target="y"}'] == 0.5


def test_every_count_has_a_type_of_prometheus():
    assert {kind for kind, _ in HELP.values()} <= {"counter", "gauge", "histogram"}
    assert all(name.endswith("_total") == (kind == "counter") for name, (kind, _) in HELP.items())
