"""MC dropout on trained networks of PyTorch: ``dubito.wrap`` beside the loop that keeps dropout on, and rewrites of it.

scripts/bench measures them by the clock. ``taskset -c 0 python trained_networks.py`` prints the processor time of one core, which other
programs disturb less, and whether the means agree.
"""

import time

import data
import jax
import numpy as np
import torch
from torch import func, nn

import dubito

KEY = 0


class Encoder(nn.Module):
    """A transformer encoder: 16 tokens of 8 numbers, 32 wide, two layers of four heads."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.embedding = nn.Linear(8, 32)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, 1)

    def forward(self, x):
        return self.out(self.layers(self.embedding(x)).mean(1))


def perceptron():
    """10 columns, two layers of 128 units."""
    hidden = [nn.Linear(10, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*hidden, nn.Linear(128, 1))


def convolutional():
    """28 × 28 images, ten classes: convolutions with 16 and 32 channels, and 128 units."""
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(32 * 49, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10))


NETWORKS = {
    "perceptron": (perceptron, (10,)),
    "convolutional": (convolutional, (1, 28, 28)),
    "encoder": (Encoder, (16, 8)),
}


def prepared(network, rows):
    """The module, with weights that are drawn twice as large as PyTorch does (of the size that they have after training), and rows."""
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    module = make().train()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
    return module, np.random.default_rng(0).normal(size=(rows, *shape)).astype(np.float32)


def spread(answer):
    """The root mean variance over draws: of f, and of the probabilities of classes."""
    return float(np.sqrt(np.mean(np.square(np.asarray(answer[1])))))


def wrapped(network, rows, draws):
    """``dubito.predict`` of the wrapped module."""
    module, x = prepared(network, rows)
    classes = network == "convolutional"
    likelihood = "categorical" if classes else dubito.Gaussian(precision=1.0)
    few = np.zeros(2, int) if classes else np.zeros((2, 1), np.float32)
    key = jax.random.key(KEY)
    posterior = dubito.wrap(
        dubito.from_torch(module, x[:2]), dubito.MCDropout(), likelihood=likelihood, validation=(x[:2], few), key=key
    )

    def run():
        answer = dubito.predict(posterior, x, key=key, draws=draws)
        return answer.mean, answer.epistemic_std

    return data.Task(run, spread, 1)


def loop(network, rows, draws, batch=8192):
    """One forward pass over all rows per draw, with dropout in training mode: each row has masks of its own."""
    module, x = prepared(network, rows)
    parts = torch.from_numpy(x).split(batch)
    return task(network, lambda: torch.stack([torch.cat([module(part) for part in parts]) for _ in range(draws)]))


def repeated(network, rows, draws, each=10):
    """``each`` draws at a time, as rows of one forward pass."""
    module, x = prepared(network, rows)
    each = min(each, draws)
    many = torch.from_numpy(x).repeat(each, *[1] * (x.ndim - 1))
    return task(network, lambda: torch.cat([module(many).view(each, rows, -1) for _ in range(draws // each)]))


def vmapped(network, rows, draws, each=10):
    """torch.func.vmap over ``each`` draws at a time; it has no rule for the dropout of attention."""
    module, x = prepared(network, rows)
    each = min(each, draws)
    given = torch.from_numpy(x)
    many = func.vmap(lambda _: module(given), randomness="different")
    return task(network, lambda: torch.cat([many(torch.zeros(each)) for _ in range(draws // each)]))


def task(network, evaluate):
    """Mean and standard deviation over draws of what ``evaluate()`` returns, or of probabilities."""

    def run():
        with torch.inference_mode():
            f = evaluate()
            values = f.softmax(-1) if network == "convolutional" else f
            return values.mean(0), values.std(0, correction=0)

    torch.set_num_threads(2)
    return data.Task(run, spread, 1)


def main():
    """Processor seconds of the loop and of dubito, the least of three runs of each, and z of the means' differences."""
    for network, rows, draws in (
        ("perceptron", 50, 100),
        ("perceptron", 20_000, 100),
        ("convolutional", 500, 50),
        ("encoder", 1000, 50),
    ):
        sides = [wrapped(network, rows, draws), loop(network, rows, draws)]
        torch.set_num_threads(1)
        answers, spent = [[np.asarray(part).reshape(rows, -1) for part in side.run()] for side in sides], [[], []]
        for number in (0, 1) * 3:
            start = time.process_time()
            sides[number].run()
            spent[number].append(time.process_time() - start)
        (mean, sd), (their_mean, their_sd) = answers
        z = (mean - their_mean) / np.sqrt((sd**2 + their_sd**2) / draws)
        ours, theirs = map(min, spent)
        text = f"{ours:.3g} s, loop {theirs:.3g} s, ratio {theirs / ours:.1f}; spread {spread((0, sd)):.3f}, {spread((0, their_sd)):.3f}"
        print(f"{network}, {rows} rows, {draws} draws: {text}; z of means {np.std(z):.2f}", flush=True)


if __name__ == "__main__":
    main()
