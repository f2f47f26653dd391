"""The Laplace approximation beside laplace-torch 0.3 (Daxberger et al., NeurIPS 2021), around the same weights of PyTorch networks.

python benchmarks/laplace_torch.py     (benchmarks/README.md describes the installation)

Both get the same prior precision for weights and biases, the same fixed noise, and the generalized Gauss-Newton curvature. Compared are
the log marginal likelihood and the covariance of the outputs at test rows under the linearized network, J Λ⁻¹ Jᵀ, which is computed
here from the scales and rotations of dubito's posterior. Differences of covariances are relative to the standard deviations of the two
outputs. The table is written to benchmarks/results/laplace_torch.md; with a difference above 1e-3 the program ends with status 1.

The conventions agree: the log marginal likelihood has all constants of the likelihood; it is conditional on the other layers under
"last-layer"; "kronecker" has Σ a aᵀ / N ⊗ Σ g gᵀ for the weights of a linear layer of PyTorch, with g for all outputs, and Σ g gᵀ for its
bias. (dubito joins the bias with the weights where a network multiplies rows by a matrix of shape (inputs, outputs), as its own do.)
"""

import pathlib
import sys

import jax
import numpy as np
import torch
from laplace import Laplace
from torch import nn

import dubito

RESULTS = pathlib.Path(__file__).parent / "results" / "laplace_torch.md"
LIMIT = 1e-3
ROWS, TEST, NOISE, SCALE = 200, 50, 0.3, 0.8
STRUCTURES = {
    "dense": ("all", "full"),
    "kronecker": ("all", "kron"),
    "diagonal": ("all", "diag"),
    "last-layer": ("last_layer", "full"),
}


def tables():
    """(name, likelihood of dubito, x, y) of each problem: rows and test rows of three columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS + TEST, 3))
    first = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    second = x[:, 1] * x[:, 2]
    y = np.stack([first, second], 1) + NOISE * rng.normal(size=(ROWS + TEST, 2))
    logits = np.stack([first, second, np.zeros_like(first)], 1)
    classes = (2 * logits + rng.gumbel(size=logits.shape)).argmax(1)
    precision = NOISE**-2
    return (
        ("regression, one output", dubito.Gaussian(precision=precision), x, y[:, :1]),
        ("regression, two outputs", dubito.Gaussian(precision=precision, targets=2), x, y),
        ("three classes", dubito.Categorical(3), x, classes),
    )


def trained(x, y, width):
    """A perceptron 3-16-8-``width`` with biases near its mode under the prior."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, width))
    adam = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(2000):
        adam.zero_grad()
        f = module(x)
        loss = (
            0.5 * ((f - y) / NOISE).square().sum()
            if y.ndim == 2
            else nn.functional.cross_entropy(f, y, reduction="sum")
        )
        (loss + 0.5 * sum(w.square().sum() for w in module.parameters()) / SCALE**2).backward()
        adam.step()
    return module.eval()


def theirs(module, x, y, test, structure):
    """Log marginal likelihood and covariances (rows, outputs, outputs) of laplace-torch."""
    subset, hessian = STRUCTURES[structure]
    likelihood = {"likelihood": "regression", "sigma_noise": NOISE} if y.ndim == 2 else {"likelihood": "classification"}
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=len(x))
    found = Laplace(
        module, subset_of_weights=subset, hessian_structure=hessian, prior_precision=SCALE**-2, **likelihood
    )
    found.fit(rows)
    _, covariances = found._glm_predictive_distribution(test)
    return float(found.log_marginal_likelihood()), covariances.numpy()


def ours(network, likelihood, x, y, test, structure):
    """The same of dubito."""
    method = dubito.LaplaceApproximation(structure=structure)
    prior = dubito.Normal(SCALE, biases=SCALE)
    key = jax.random.key(0)
    found = dubito.wrap(network, method, likelihood=likelihood, train=(x, y), prior=prior, key=key)
    return float(found.log_evidence), covariances(found, test)


def covariances(posterior, x):
    """J Λ⁻¹ Jᵀ at each row, from draws that are linear in their noise: Θ = mean + left (scale ⊙ ε) rightᵀ, or mean + factor ε."""
    network, part = posterior.model.network.network, posterior.part
    slopes = jax.tree.leaves(jax.jacobian(network.apply)(part.mean["network"], np.float32(x)))
    slopes = [np.asarray(slope, float).reshape(*slope.shape[:2], -1) for slope in slopes]
    if isinstance(part, dubito.DiagonalNormal):
        parts = [s * np.ravel(sd) for s, sd in zip(slopes, jax.tree.leaves(part.scale["network"]), strict=True)]
    elif isinstance(part, dubito.FullCovarianceNormal):
        parts = [np.concatenate(slopes, axis=2) @ np.asarray(part.factor, float)]
    else:
        parts = [rotated(part, number, slopes) for number in range(len(part.groups))]
    whole = np.concatenate(parts, axis=2)
    return whole @ whole.mT


def rotated(part, number, slopes):
    """The derivatives in the noise of a group, (rows, outputs, ·)."""
    name = str(number)
    scale = np.asarray(part.scale[name], float)
    s = np.concatenate([slopes[k] for k in part.groups[number]], axis=2)
    s = s.reshape(*s.shape[:2], *scale.shape)
    if name in part.left:
        s = np.einsum("nkab,ac->nkcb", s, np.asarray(part.left[name], float))
    if name in part.right:
        s = s @ np.asarray(part.right[name], float)
    return (s * scale).reshape(*s.shape[:2], -1)


def compared():
    """(problem, structure, both log marginal likelihoods, their relative difference, that of the covariances) of each."""
    for name, likelihood, x, y in tables():
        x_torch, y_torch = torch.tensor(x), torch.tensor(y)
        module = trained(x_torch[:ROWS], y_torch[:ROWS], likelihood.width)
        network = dubito.from_torch(module, x_torch[:2])
        for structure in STRUCTURES:
            a = theirs(module, x_torch[:ROWS], y_torch[:ROWS], x_torch[ROWS:], structure)
            b = ours(network, likelihood, x[:ROWS], y[:ROWS], x[ROWS:], structure)
            evidence = abs(a[0] - b[0]) / abs(a[0])
            size = np.sqrt(np.einsum("nii,njj->nij", a[1], a[1]))  # of an entry: the standard deviations' product
            covariance = float(np.max(np.abs(a[1] - b[1]) / size))
            yield name, structure, a[0], b[0], evidence, covariance


def main():
    torch.set_default_dtype(torch.float64)
    lines = [
        "# The Laplace approximation beside laplace-torch",
        "",
        "Written by `benchmarks/laplace_torch.py`; [benchmarks](../README.md) describes it.",
        "",
        "| problem | structure | log evidence, laplace-torch | dubito | relative difference | that of the covariances, at most |",
        "|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for name, structure, a, b, evidence, covariance in compared():
        lines.append(f"| {name} | {structure} | {a:.4f} | {b:.4f} | {evidence:.1e} | {covariance:.1e} |")
        print(lines[-1], flush=True)
        worst = max(worst, evidence, covariance)
    RESULTS.write_text("\n".join(lines) + "\n")
    if not worst <= LIMIT:
        sys.exit(f"a difference of {worst:.2g} exceeds {LIMIT:g}")


if __name__ == "__main__":
    main()
