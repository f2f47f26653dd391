"""PyTorch's side of prediction with dropout kept on: the loop that people write, and rewrites of it."""

import data
import torch
from torch import func

from pytorch import dropout_network


def prepared(rows, columns, hidden, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, _ = data.table(max(rows, 512), columns)
    return dropout_network(columns, hidden).train(), torch.from_numpy(x[:rows])


def moments(values):
    """Mean and standard deviation over the first axis."""
    return values.mean(0), values.std(0, correction=0)


def task(run, rows, draws):
    def timed():
        with torch.inference_mode():
            return run()

    return data.Task(timed, lambda answer: answer[1].square().mean().sqrt().item(), rows * draws)


def loop(rows, columns, hidden, draws, batch=8192, threads=2):
    """One forward pass over all rows a draw, with masks of its own for every row."""
    model, x = prepared(rows, columns, hidden, threads)

    def run():
        return moments(torch.stack([torch.cat([model(part) for part in x.split(batch)]) for _ in range(draws)]))

    return task(run, rows, draws)


def vmapped(rows, columns, hidden, draws, threads=2):
    """torch.func.vmap over the draws, masks of its own for every row."""
    model, x = prepared(rows, columns, hidden, threads)
    many = func.vmap(lambda _: model(x), randomness="different")
    return task(lambda: moments(many(torch.zeros(draws))), rows, draws)


def repeated(rows, columns, hidden, draws, threads=2):
    """All draws as rows of one forward pass."""
    model, x = prepared(rows, columns, hidden, threads)
    return task(lambda: moments(model(x.repeat(draws, 1)).view(draws, rows, 1)), rows, draws)


def shared_masks(rows, columns, hidden, draws, batch=1024, compiled=False, threads=2):
    """The best rewrite: one mask a draw for all rows, put on the weights; the first layer, which no mask precedes, is
    computed once; rows in blocks that stay in the cache."""
    model, x = prepared(rows, columns, hidden, threads)
    layers = [layer for layer in model if isinstance(layer, torch.nn.Linear)]

    def block(part, weights):
        first = torch.relu(layers[0](part))
        outputs = []
        for drawn in zip(*weights, strict=True):
            h = first
            for number, (layer, w) in enumerate(zip(layers[1:], drawn, strict=True)):
                h = torch.nn.functional.linear(torch.relu(h) if number else h, w, layer.bias)
            outputs.append(h)
        return torch.stack(outputs)

    def run():
        weights = []
        for layer in layers[1:]:
            keep = (torch.rand(draws, 1, layer.in_features) >= data.RATE).float() / (1 - data.RATE)
            weights.append(layer.weight * keep)
        return moments(torch.cat([evaluate(part, weights) for part in x.split(batch)], dim=1))

    if len(layers) == 2:  # the draws of the one masked layer, whose output is a single number, are one product
        def evaluate(part, weights):
            return (torch.relu(layers[0](part)) @ weights[0][:, 0].mT).mT[..., None] + layers[1].bias
    else:
        evaluate = torch.compile(block, dynamic=False) if compiled else block
    return task(run, rows, draws)
