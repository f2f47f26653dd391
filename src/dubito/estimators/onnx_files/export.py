"""A fitted estimator as an ONNX file: encoding, scaling, all draws, moments, intervals and calibration in one graph."""

import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dubito._check import check_number
from dubito._process.output_files import write_atomically
from dubito._values import Table
from dubito.estimators.checks import checked_columns
from dubito.estimators.onnx_files.answers import (
    all_draws,
    check_calibration,
    class_answers,
    regression_answers,
    stacked_draws,
)
from dubito.estimators.onnx_files.columns import (
    ComparedRows,
    add_encoding,
    check_columns,
    input_types,
    rows_to_compare,
)
from dubito.estimators.onnx_files.graph import PREFIX, ROWS, TYPES, OnnxGraph, numbers_in
from dubito.estimators.onnx_files.operations import add_program

Outputs: TypeAlias = dict[str, tuple[str, int]]  # names in the graph, and types

OPSET, ML_OPSET, IR_VERSION = 18, 3, 8
MOMENTS = ("mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper")
MADE_UP_ROWS = 64
TOLERANCE = 1e-5  # of the mean predictive standard deviation, and of probabilities
LARGEST = 2**31 - 2**20  # bytes of an ONNX file
INSTALL = "Exporting to ONNX needs onnx: pip install 'dubito[onnx]'"


class OnnxFile(NamedTuple):
    """What an export wrote.

    Attributes
    ----------
    path : Path
        The file.
    draws : int
        How many functions are in it.
    numbers : int
        How many numbers its constants have.
    size : int
        Its bytes.
    error : float
        The largest difference from ``predict`` at the rows of the comparison, in mean predictive standard deviations,
        or in probability.
    rows : int
        The number of these rows.
    notes : tuple of str
        What the file does not do.
    """

    path: Path
    draws: int
    numbers: int
    size: int
    error: float
    rows: int
    notes: tuple[str, ...]


def export_onnx(
    model: Any, path: str | Path, X: Table = None, coverage: float | None = None, draws: int | None = None
) -> OnnxFile:
    """Write a fitted estimator as an ONNX model; see ``FittedEstimator.to_onnx``."""
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        import onnx.reference  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(INSTALL) from error
    schema = model.schema_
    check_columns(schema)
    check_calibration(model.calibration_)
    if model.transform_ is not None:
        raise ValueError("a model of a transformed target is not exported: fit it without target_transform")
    rows = rows_to_compare(schema, MADE_UP_ROWS, X)
    functions = model._functions(draws)
    predictive = model._calibrated(functions, rows.encoded)
    if predictive.task == "classification" and coverage is not None:
        raise ValueError(
            "coverage is that of intervals, and classes have none: a calibration has the coverage of its sets"
        )
    coverage = float(predictive.coverage if coverage is None else coverage)
    check_number("coverage", coverage, "(0, 1)")
    graph = OnnxGraph(onnx, f"{PREFIX}rows")
    outputs = _add_answers(graph, model, functions, predictive, coverage)
    notes = _notes(model, predictive, outputs)
    proto = _model(onnx, graph, schema, outputs, _metadata(model, coverage, len(functions), notes))
    size = proto.ByteSize()
    if size > LARGEST:
        raise ValueError(
            f"the file would have {size / 1e9:.1f} GB, and ONNX allows 2 GB: export fewer draws, by draws="
        )
    onnx.checker.check_model(proto)
    error = _largest_error(onnx, proto, rows, outputs, predictive, coverage)
    if not error <= TOLERANCE:
        raise ValueError(
            f"the exported graph differs from predict by {error:.1e}, more than {TOLERANCE}: nothing was written"
        )
    with write_atomically(path) as file:
        file.write(proto.SerializeToString())
    return OnnxFile(Path(path), len(functions), numbers_in(graph), size, error, len(rows.encoded), notes)


def _add_answers(graph: OnnxGraph, model: Any, functions: Any, predictive: Any, coverage: float) -> Outputs:
    """The names in the graph and types of the outputs, by those of ``prediction_columns``."""
    schema = model.schema_
    x = add_encoding(graph, schema)
    sizes = graph.node("Shape", next(iter(input_types(schema))))
    graph.node("Slice", sizes, np.array([0]), np.array([1]), result=graph.rows)
    z = all_draws(functions.model, *stacked_draws(functions))
    if predictive.task == "classification":
        return _class_outputs(graph, predictive, add_program(graph, class_answers(predictive, z), x, schema.width))
    found = add_program(graph, regression_answers(predictive, z, coverage), x, schema.width)
    outputs: Outputs = {}
    endings = [""] if predictive.columns == 1 else [f"_{k}" for k in range(predictive.columns)]
    shift, scale = (
        np.broadcast_to(np.float64(each), predictive.columns) for each in (predictive.shift, predictive.scale)
    )
    for name in [each for each in MOMENTS if each in found]:
        value = graph.node("Mul", graph.node("Cast", found[name], to=TYPES["float64"]), scale[None])
        value = value if name.endswith("std") else graph.node("Add", value, shift[None])
        for k, ending in enumerate(endings):
            outputs[f"{name}{ending}"] = graph.node("Gather", value, np.array(k), axis=1), TYPES["float64"]
    return outputs


def _class_outputs(graph: OnnxGraph, predictive: Any, found: dict[str, str]) -> Outputs:
    labels = np.arange(predictive.columns) if predictive.classes is None else np.asarray(predictive.classes)
    texts = labels.dtype.kind not in "iub"
    table = np.array([str(label) for label in labels], object) if texts else labels.astype(np.int64)
    prediction = graph.node("Gather", table, found["code"], axis=0)
    outputs: Outputs = {"prediction": (prediction, TYPES["string"] if texts else TYPES["int64"])}
    for what, kind, prefix in (("probs", "float32", "p"), ("set", "bool", "set")):
        for k, label in enumerate(labels.tolist() if what in found else []):
            outputs[f"{prefix}_{label}"] = graph.node("Gather", found[what], np.array(k), axis=1), TYPES[kind]
    return outputs | {name: (found[name], TYPES["float32"]) for name in ("entropy", "mutual_information")}


def _notes(model: Any, predictive: Any, outputs: Outputs) -> tuple[str, ...]:
    """What the file does not do as the library does."""
    found = []
    categories = any(column.kind == "category" for column in model.schema_.columns)
    if predictive.task == "regression" and not any(name.startswith("lower") for name in outputs):
        name = type(predictive.likelihood).__name__
        found.append(f"no quantiles: {name} is not a mixture of Gaussians or Student's t")
    if model.handle_unknown == "error" and categories:
        found.append(
            'categories not seen in fit are encoded as none, or as "others" in columns that have these; predict raises an error'
        )
    if model.missing == "error":
        found.append("missing values are filled; predict raises an error")
    return tuple(found)


def _metadata(model: Any, coverage: float, draws: int, notes: tuple[str, ...]) -> dict[str, str]:
    return {
        "description": model.description,
        **({} if model.task == "classification" and model.calibration_ is None else {"coverage": f"{coverage:g}"}),
        "draws": str(draws),
        "notes": "; ".join(notes),
        "dubito": importlib.metadata.version("dubito"),
    }


def _model(onnx: Any, graph: OnnxGraph, schema: Any, outputs: Outputs, metadata: dict[str, str]) -> Any:
    """The model, with outputs by their names; one that is an input, too, gets a name of its own."""
    helper, given = onnx.helper, input_types(schema)
    shape = [ROWS, 1] if schema.named else [ROWS, len(schema.columns)]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind in given.items()]
    results = []
    for name, (value, kind) in outputs.items():
        graph.node("Identity", value, result=_output_name(name, given))
        results.append(helper.make_tensor_value_info(_output_name(name, given), kind, [ROWS]))
    made = helper.make_graph(graph.nodes, "dubito", inputs, results, graph.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    version = importlib.metadata.version("dubito")
    model = helper.make_model(made, opset_imports=opsets, producer_name="dubito", producer_version=version)
    model.ir_version = IR_VERSION
    helper.set_model_props(model, metadata)
    return model


def _output_name(name: str, given: dict[str, int]) -> str:
    return f"predicted_{name}" if name in given else name


def _largest_error(
    onnx: Any, proto: Any, rows: ComparedRows, outputs: Outputs, predictive: Any, coverage: float
) -> float:
    """The largest difference of an output from ``predict``, in predictive standard deviations or in probability."""
    names = [output.name for output in proto.graph.output]
    with np.errstate(all="ignore"):
        found = dict(zip(outputs, onnx.reference.ReferenceEvaluator(proto).run(names, rows.fed), strict=True))
    expected: dict[str, Any] = checked_columns(predictive, coverage)
    if predictive.task == "classification":
        if _chooses_otherwise(found, expected, predictive):
            return np.inf
        expected = {name: value for name, value in expected.items() if not name.startswith(("prediction", "set_"))}
        units = dict.fromkeys(expected, 1.0)
    else:
        several = predictive.columns > 1
        sd = predictive.columnwise.std if predictive.supports("variance") else np.ones((1, predictive.columns))
        units = {name: float(np.mean(sd[:, int(name.rsplit("_", 1)[1]) if several else 0])) for name in expected}
    errors = [0.0]
    for name in expected.keys() & found.keys():
        a, b = np.asarray(found[name], float), np.asarray(expected[name], float)
        same = a == b  # also infinite ends of an interval
        errors.append(np.max(np.abs(np.where(same, 0, a) - np.where(same, 0, b))) / units[name])
    return float(np.max(errors))  # NaN if there is one


def _chooses_otherwise(found: dict[str, Any], expected: dict[str, Any], predictive: Any) -> bool:
    """Whether a most probable class, or a conformal set, is another than the library's, and rounding is not the cause."""
    labels = expected["prediction"]
    kind = str if labels.dtype.kind not in "iub" else np.int64
    second, first = np.sort(predictive.probs, axis=1)[:, -2:].T
    if np.any((found["prediction"].astype(kind) != labels.astype(kind)) & (first - second > 2 * TOLERANCE)):
        return True
    names = [name for name in expected if name.startswith("set_")]
    if not names:
        return False
    conformal, sets = predictive.conformal, np.stack([found[name] for name in names], axis=1)
    margin = np.inf if conformal.margins is None else conformal.margins[0]
    clear = ~(np.abs(conformal.class_scores(predictive.predictive) - margin) <= 2 * TOLERANCE)
    return bool(np.any((sets != predictive.sets) & clear))
