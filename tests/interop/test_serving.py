"""`dubito serve`: request by request, and as a process: its signals, its model replaced, its latency's histogram."""

import asyncio
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

import dubito
from dubito.serving.metrics import Metrics
from dubito.serving.model_file import WatchedModel

import served_table  # isort: skip

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from dubito.serving import app as serving

ROWS = served_table.as_json()
JSON = "application/json"


class Client:
    """Calls an ASGI application, as a server does."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method, path, body=b"", headers=(), pieces=1):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = max(-(-len(body) // pieces), 1)
        parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        sent = []

        async def receive():
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
        scope |= {"query_string": b"", "headers": list(headers), "scheme": "http", "server": ("test", 80)}
        asyncio.run(self.app(scope, receive, send))
        kind = dict(sent[0]["headers"])[b"content-type"].decode()
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        return sent[0]["status"], json.loads(text, parse_constant=pytest.fail) if kind == JSON else text


@pytest.fixture
def path(tmp_path):
    served_table.model().save(tmp_path / "model.dubito")
    return tmp_path / "model.dubito"


@pytest.fixture
def watched(path):
    return WatchedModel(path, dubito.load, 0.9, Metrics(), lambda text: None)


@pytest.fixture
def client(watched):
    return Client(serving.make_app(watched, watched.metrics, serving.Limits(rows=100, body=20_000)))


def counts(text):
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_predict_answers_row_for_row_as_the_model(client):
    expected = served_table.model().predictive(served_table.inputs())
    lower, upper = expected.interval(0.5)
    for number, row in enumerate(ROWS[:6]):
        status, found = client("POST", "/predict", {"rows": [row], "coverage": 0.5, "keep": ["city"]})
        assert status == 200 and list(found) == ["rows", "notes", "model"]
        (answer,) = found["rows"]
        assert list(answer) == ["city", "mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper"]
        assert answer["city"] == row["city"]
        for name, values in (("mean", expected.mean), ("std", expected.std), ("lower", lower), ("upper", upper)):
            assert answer[name] == values[number], name
    status, found = client("POST", "/predict", {"columns": {name: [row[name] for row in ROWS] for name in ROWS[0]}})
    assert status == 200 and found["columns"]["mean"] == expected.mean.tolist()
    assert client("POST", "/predict", {"rows": []})[1]["rows"] == []


def test_a_body_in_pieces_is_read_whole(client):
    assert client("POST", "/predict", {"rows": ROWS}, pieces=7) == client("POST", "/predict", {"rows": ROWS})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b'{"rows": [{"size": NaN}]}', 400, "NaN"),
        ({"row": []}, 422, "JSON object with either"),
        ({"rows": [{"size": 1}]}, 422, "seen at fit time, yet now missing"),
        ({"rows": [ROWS[0] | {"size": "x"}]}, 422, "was numeric at fit; now it is text"),
        ({"rows": [ROWS[0]], "keep": ["sise"]}, 422, "no column 'sise'; did you mean 'size'?"),
        ({"rows": [ROWS[0] | {"mean": 1}], "keep": ["mean"]}, 422, "of the same name"),
        ({"rows": [ROWS[0]], "coverage": 2}, 422, "coverage must be"),
        ({"rows": [{}] * 101}, 413, "101 rows; at most 100"),
        (b" " * 20_001, 413, "more than 20,000 bytes"),
    ],
)
def test_bad_requests_get_a_status_and_a_message(client, body, status, message):
    found = client("POST", "/predict", body)
    assert found[0] == status
    assert message in found[1]["error"]
    assert counts(client("GET", "/metrics")[1])[f'dubito_requests_total{{path="/predict",status="{status}"}}'] == 1


def test_a_body_is_refused_by_its_announced_length_and_by_what_comes(client):
    announced = client("POST", "/predict", b"{}", headers=[(b"content-length", b"20001")])
    assert announced[0] == 413
    unannounced = client("POST", "/predict", b" " * 50_000, pieces=50)
    assert unannounced[0] == 413


def test_a_client_that_goes_and_a_body_that_does_not_come_are_counted(watched, monkeypatch):
    notes = []
    app = serving.make_app(watched, watched.metrics, say=notes.append)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [],
    }
    sent = []

    async def gone():
        return {"type": "http.disconnect"}

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, gone, send))
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.05)
    asyncio.run(app(scope, never, send))
    assert [message["status"] for message in sent if "status" in message] == [499, 408]
    found = counts(watched.metrics.text())
    assert found['dubito_requests_total{path="/predict",status="499"}'] == 1
    assert found['dubito_requests_total{path="/predict",status="408"}'] == 1
    assert notes == []


def test_other_paths_and_methods_are_json_errors(client):
    status, found = client("GET", "/")
    assert status == 404 and "POST /predict" in found["error"]
    assert client("GET", "/predict")[0] == 405
    found = counts(client("GET", "/metrics")[1])
    assert found['dubito_requests_total{path="other",status="404"}'] == 1
    assert found['dubito_requests_total{path="/predict",status="405"}'] == 1


def test_an_unexpected_error_is_told_to_the_log_alone(watched, monkeypatch):
    notes = []
    client = Client(serving.make_app(watched, watched.metrics, say=notes.append))
    monkeypatch.setattr(serving, "read_request", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # starlette raises it again, for the server's log
        client("POST", "/predict", {"rows": [ROWS[0]]})
    assert notes == ["Error at /predict: ZeroDivisionError: division by zero"]
    found = counts(client("GET", "/metrics")[1])
    assert found['dubito_requests_total{path="/predict",status="500"}'] == 1


def test_metrics_count_rows_changes_and_uncertain_rows(watched, client):
    watched.current.estimator.held_out_uncertainty_[:] = 0
    changed = ROWS[0] | {"size": None, "city": "Bonn"}
    assert client("POST", "/predict", {"rows": [ROWS[1], changed, changed]})[0] == 200
    assert client("POST", "/predict", {"rows": [{"size": 1}]})[0] == 422
    found = counts(client("GET", "/metrics")[1])
    assert found["dubito_rows_total"] == 3
    assert found['dubito_changed_values_total{what="missing",column="size"}'] == 2
    assert found['dubito_changed_values_total{what="unknown",column="city"}'] == 2
    assert found['dubito_uncertain_rows_total{target="price"}'] == 3  # all are above 0
    assert found['dubito_uncertain_share{target="price"}'] == 1
    assert found['dubito_request_seconds_count{path="/predict"}'] == 2


def test_schema_and_health_follow_the_file(path, watched, client):
    status, found = client("GET", "/schema")
    assert status == 200 and found["limits"] == {"rows": 100, "bytes": 20_000} and found["task"] == "regression"
    assert client("GET", "/health")[1]["status"] == "ok"
    path.write_bytes(path.read_bytes()[:-1])
    watched.check()
    status, health = client("GET", "/health")
    assert status == 200 and health["status"] == "stale" and "not a usable model file" in health["problem"]
    assert client("POST", "/predict", {"rows": [ROWS[0]]})[0] == 200
    assert counts(client("GET", "/metrics")[1])["dubito_model_problem"] == 1
    served_table.model("classification").save(path)
    watched.check()
    health = client("GET", "/health")[1]
    assert health["status"] == "ok" and health["problem"] is None
    answer = client("POST", "/predict", {"rows": [ROWS[0]]})[1]
    assert answer["rows"][0]["prediction"] in ("low", "mid", "top")
    assert answer["model"] == health["model"]["sha256"][:12] == client("GET", "/schema")[1]["model"]


# --- the process


@pytest.fixture
def start(path):
    """``start(*options)``: (process, port) of a server."""
    processes = []

    def run(*options, model=path):
        command = [sys.executable, "-m", "dubito", "serve", str(model), "--port", "0", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DUBITO_CACHE": "0"})
        processes.append(process)
        line = process.stderr.readline()
        assert line.startswith("Serving"), line + process.stderr.read()
        return process, int(re.search(r":(\d+)\s*$", line)[1])

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def call(port, method, path, body=None, timeout=60):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_requests_at_hand_be_answered(start, number, code):
    process, port = start()
    rows = ROWS * 400  # takes longer than a signal
    body = json.dumps({"rows": rows}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    connection.send(body[:-1])
    time.sleep(0.3)  # it is at hand, and not complete
    process.send_signal(number)
    time.sleep(0.3)
    with pytest.raises(OSError):  # no new ones
        call(port, "GET", "/health", timeout=5)
    connection.send(body[-1:])
    answer = connection.getresponse()
    found = json.loads(answer.read())
    assert answer.status == 200 and len(found["rows"]) == len(rows)
    connection.close()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == "Interrupted.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_request_that_never_ends_does_not_hold_the_process(start):
    process, port = start("--drain", "1")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "1000")
    connection.endheaders()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    clock = time.monotonic()
    process.communicate(timeout=30)
    connection.close()
    assert process.returncode == 143
    assert time.monotonic() - clock < 8


def test_more_connections_than_allowed_get_503(start):
    _, port = start("--max-connections", "3")
    idle = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(4)]
    for connection in idle:
        connection.connect()
    time.sleep(0.3)
    assert call(port, "GET", "/health")[0] == 503
    for connection in idle:
        connection.close()
    time.sleep(0.3)
    assert call(port, "GET", "/health")[0] == 200


def test_a_model_replaced_under_load_is_never_mixed(start, path):
    _, port = start()
    answers, failures, stop = [], [], threading.Event()
    expected = {}
    for kind in ("regression", "no held-out rows"):
        expected[kind] = served_table.model(kind).predict(served_table.inputs())[0]

    def ask():
        while not stop.is_set():
            status, text = call(port, "POST", "/predict", {"rows": [ROWS[0]]})
            if status != 200:
                failures.append(text)
                return
            found = json.loads(text)
            answers.append((found["model"], found["rows"][0]["mean"]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    first = json.loads(call(port, "GET", "/health")[1])["model"]["sha256"]
    served_table.model("no held-out rows").save(path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = json.loads(call(port, "GET", "/health")[1])["model"]["sha256"]
        if now != first:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and now != first
    each = {model: {mean for name, mean in answers if name == model} for model, _ in answers}
    assert set(each) == {first[:12], now[:12]}
    for model, kind in ((first, "regression"), (now, "no held-out rows")):
        (mean,) = each[model[:12]]  # one answer of each model, whatever was asked at the same time
        assert mean == pytest.approx(expected[kind], rel=1e-5)


def test_the_code_of_the_guide_runs(start, tmp_path, capsys):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "serving.md").read_text()
    shell, python = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("sh", "python"))
    assert shell == ["dubito fit co2.csv --target co2 -o co2.dubito\ndubito serve co2.dubito --port 8000\n"]
    table = pd.read_csv(pathlib.Path(dubito.__file__).parent / "tables" / "data" / "co2.csv")
    X, y = table[["year", "month"]], table["co2"]
    model = dubito.BayesianRegressor(dubito.Committee(dubito.MAP(epochs=3), 2), hidden=(4,), random_state=0).fit(X, y)
    model.save(tmp_path / "co2.dubito")
    _, port = start(model=tmp_path / "co2.dubito")
    (block,) = python
    exec(compile(block.replace(":8000/", f":{port}/"), "serving.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1990.375", "2030.375"]
    assert [len(line.split()) for line in lines] == [5, 5]


def test_the_command_says_what_is_wrong(path):
    def run(*arguments):
        command = [sys.executable, "-m", "dubito", "serve", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in found.stderr
        return found.returncode, found.stderr

    code, errors = run(path, "--host", "no.such.host.invalid")
    assert code == 1 and "cannot listen on no.such.host.invalid" in errors and "--host" in errors
    code, errors = run(path.with_name("none"), "--port", "0")
    assert code == 1 and "cannot read" in errors
    code, errors = run(path, "--port", "0", "--coverage", "1.5")
    assert code == 1 and "coverage must be strictly between 0 and 1" in errors
