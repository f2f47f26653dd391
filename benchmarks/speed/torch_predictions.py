"""PyTorch's side of prediction with dropout kept on: the usual loop, and rewrites of it."""

import data
import torch
from pytorch import dropout_network
from torch import func


def prepared(rows, columns, hidden, threads):
    torch.set_num_threads(threads)
    x, _ = data.table(rows, columns)
    model = dropout_network(columns, hidden).train()
    with torch.no_grad():
        for layer, (w, b) in zip(linear(model), data.weights(columns, hidden), strict=True):
            layer.weight.copy_(torch.from_numpy(w.T))
            layer.bias.copy_(torch.from_numpy(b))
    return model, torch.from_numpy(x)


def linear(model):
    return [layer for layer in model if isinstance(layer, torch.nn.Linear)]


def moments(values):
    """Mean and standard deviation over the first axis."""
    return values.mean(0), values.std(0, correction=0)


def task(run):
    def timed():
        with torch.inference_mode():
            return run()

    return data.Task(timed, lambda answer: answer[1].square().mean().sqrt().item(), 1)


def loop(rows, columns, hidden, draws, batch=8192, threads=2):
    """One forward pass over all rows per draw, with independent masks for every row."""
    model, x = prepared(rows, columns, hidden, threads)

    def run():
        return moments(torch.stack([torch.cat([model(part) for part in x.split(batch)]) for _ in range(draws)]))

    return task(run)


def vmapped(rows, columns, hidden, draws, threads=2):
    """torch.func.vmap over the draws, with independent masks for every row."""
    model, x = prepared(rows, columns, hidden, threads)
    many = func.vmap(lambda _: model(x), randomness="different")
    return task(lambda: moments(many(torch.zeros(draws))))


def repeated(rows, columns, hidden, draws, each=100, threads=2):
    """``each`` draws at a time, as rows of one forward pass."""
    model, x = prepared(rows, columns, hidden, threads)
    each = min(each, draws)
    many = x.repeat(each, 1)
    return task(lambda: moments(torch.cat([model(many).view(each, rows, 1) for _ in range(draws // each)])))


def shared_masks(rows, columns, hidden, draws, batch=1024, form="loop", threads=2):
    """The fastest rewrite: one mask per draw for all rows, applied to the weights. The first layer, which has no mask before it, is
    computed once, and rows are processed in blocks that fit into the cache. ``form``: "loop" over the draws, "products" with the draws as
    an axis, or "compiled".
    """
    model, x = prepared(rows, columns, hidden, threads)
    first, *others = linear(model)

    def looped(part, weights):
        h = torch.relu(first(part))
        return torch.stack([forward(h, [w[t] for w in weights]) for t in range(draws)])

    def forward(h, weights):
        for number, (layer, w) in enumerate(zip(others, weights, strict=True)):
            h = (torch.relu(h) if number else h) @ w + layer.bias
        return h

    def products(part, weights):
        return forward(torch.relu(first(part)), weights)

    evaluate = {"loop": looped, "products": products, "compiled": torch.compile(products, dynamic=False)}[form]

    def run():
        weights = []
        for layer in others:
            keep = (torch.rand(draws, layer.in_features, 1) >= data.RATE).float() / (1 - data.RATE)
            weights.append(layer.weight.mT * keep)
        return moments(torch.cat([evaluate(part, weights) for part in x.split(batch)], dim=1))

    return task(run)


def one_product(rows, columns, hidden, draws, threads=2):
    """One hidden layer only: with one mask per draw, all draws at all rows are a single matrix product."""
    model, x = prepared(rows, columns, hidden, threads)
    first, last = linear(model)

    def run():
        keep = (torch.rand(draws, last.in_features) >= data.RATE).float() / (1 - data.RATE)
        return moments((keep * last.weight) @ torch.relu(first(x)).mT + last.bias)

    return task(run)
