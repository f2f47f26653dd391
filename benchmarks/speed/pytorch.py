"""PyTorch's side: the usual training loop, and the fastest rewrites of it that we found."""

import data
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

BATCH = 128
# its own random numbers inside compiled code are several times slower on a CPU than those outside
COMPILE = {"dynamic": False, "options": {"fallback_random": True}}


def tensors(x, y):
    return torch.from_numpy(x), torch.from_numpy(y)


def blocks(rows):
    """Shuffled row numbers of an epoch; indexing whole batches is faster than a DataLoader, which collates row by row."""
    return torch.randperm(rows).split(BATCH)


def train(step, x, y, epochs):
    for _ in range(epochs):
        for rows in blocks(len(x)):
            step(x[rows], y[rows])


def optimized(params, loss, **options):
    """One Adam step on ``loss(x, y)``."""
    optimizer = torch.optim.Adam(params, lr=data.LEARNING_RATE, **options)

    def step(x, y):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    return step


def start(weight, bias):
    """He initialization, as on all sides."""
    nn.init.normal_(weight, std=(2 / weight.shape[1]) ** 0.5)
    nn.init.zeros_(bias)


def dropout_network(columns, hidden):
    layers, width = [], columns
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(data.RATE)]
        width = units
    layers.append(nn.Linear(width, 1))
    for layer in layers[::3]:
        start(layer.weight, layer.bias)
    return nn.Sequential(*layers)


def dropout_loop(fits, epochs, loader=False, threads=1):
    """MC dropout, 455 × 13, 50 units, sequential fits; with ``loader`` the batches come from a DataLoader."""
    torch.set_num_threads(threads)
    x, y = tensors(*data.table())
    batches = DataLoader(TensorDataset(x, y), BATCH, shuffle=True)

    def fit():
        model = dropout_network(13, (50,)).train()
        step = optimized(model.parameters(), lambda a, b: 0.5 * F.mse_loss(model(a), b), weight_decay=1 / len(x))
        if not loader:
            train(step, x, y, epochs)
        for _ in range(epochs if loader else 0):
            for a, b in batches:
                step(a, b)
        return model

    def check(models):
        return 0.5 * F.mse_loss(models[0].eval()(x), y).item()

    return data.Task(lambda: [fit() for _ in range(fits)], check, fits * epochs * 4)


def dropout_wide(fits, epochs, threads=2):
    """All fits as one wide network: their first layers are one product, Adam is fused. Compiling makes it slower."""
    torch.set_num_threads(threads)
    x, y = tensors(*data.table())

    def loss(w1, b1, w2, b2, a, b):
        hidden = F.dropout(torch.relu(torch.addmm(b1, a, w1)), data.RATE).view(-1, fits, 50)
        return 0.5 * (((hidden * w2).sum(-1) + b2 - b) ** 2).mean(0).sum()

    def run():
        params = [torch.randn(13, fits * 50) * (2 / 13) ** 0.5, torch.zeros(fits * 50)]
        params += [torch.randn(fits, 50) * (2 / 50) ** 0.5, torch.zeros(fits)]
        params = [p.requires_grad_() for p in params]
        train(optimized(params, lambda a, b: loss(*params, a, b), weight_decay=1 / len(x), fused=True), x, y, epochs)
        return params

    def check(params):
        w1, b1, w2, b2 = (p.detach() for p in params)
        first = torch.relu(x @ w1[:, :50] + b1[:50])
        return 0.5 * F.mse_loss(first @ w2[:1].mT + b2[:1], y).item()

    return data.Task(run, check, fits * epochs * 4)


def image_network():
    layers = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)]
    for layer in layers[::2]:
        start(layer.weight, layer.bias)
    return nn.Sequential(*layers)


def image_fit(rows, epochs, compiled=False, threads=2):
    """784-400-400-10, batch size 128, deterministic; with the default Adam, or with fused Adam and the network compiled."""
    torch.set_num_threads(threads)
    x, y = tensors(*data.images(rows))
    y = y.long()
    model = image_network()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    network = torch.compile(model, **COMPILE) if compiled else model

    def run():
        model.load_state_dict(start)
        step = optimized(model.parameters(), lambda a, b: F.cross_entropy(network(a), b), fused=compiled)
        train(step, x, y, epochs)
        return model

    return data.Task(run, lambda m: F.cross_entropy(m(x[:2000]), y[:2000]).item(), epochs * -(-rows // BATCH))


class Noisy(nn.Module):
    """A linear layer with independent normal weights and the KL divergence to N(0, 1/fan-in) (biases: N(0, 1)) in closed form."""

    def __init__(self, inputs, outputs, local):
        nn.Module.__init__(self)
        rho = torch.tensor(data.INITIAL_SCALE).expm1().log()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * (2 / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_rho = nn.Parameter(torch.full((outputs, inputs), rho.item()))
        self.bias_rho = nn.Parameter(torch.full((outputs,), rho.item()))
        self.local = local

    def forward(self, x):
        weight_scale, bias_scale = F.softplus(self.weight_rho), F.softplus(self.bias_rho)
        kl = normal_kl(self.weight, weight_scale, self.weight.shape[1] ** -0.5) + normal_kl(self.bias, bias_scale, 1.0)
        if self.local:
            mean = F.linear(x, self.weight, self.bias)
            std = F.linear(x**2, weight_scale**2, bias_scale**2).clamp_min(1e-16).sqrt()
            return mean + std * torch.randn_like(mean), kl
        weight = self.weight + weight_scale * torch.randn_like(self.weight)
        return F.linear(x, weight, self.bias + bias_scale * torch.randn_like(self.bias)), kl


def normal_kl(mean, scale, prior):
    return torch.sum(torch.log(prior / scale) + (scale**2 + mean**2) / (2 * prior**2) - 0.5)


class NoisyNetwork(nn.Module):
    def __init__(self, local):
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(Noisy(*sizes, local) for sizes in ((784, 400), (400, 400), (400, 10)))

    def forward(self, x):
        total = torch.zeros(())
        for number, layer in enumerate(self.layers):
            x, kl = layer(torch.relu(x) if number else x)
            total = total + kl
        return x, total


def backprop_image_fit(rows, epochs, local, compiled=False, threads=2):
    """Bayes by Backprop on 784-400-400-10, hand-written; ``compiled``: the network compiled, Adam fused."""
    torch.set_num_threads(threads)
    x, y = tensors(*data.images(rows))
    y = y.long()
    model = NoisyNetwork(local)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    network = torch.compile(model, **COMPILE) if compiled else model

    def loss(a, b):
        f, kl = network(a)
        return F.cross_entropy(f, b) + kl / rows

    def run():
        model.load_state_dict(start)
        train(optimized(model.parameters(), loss, fused=compiled), x, y, epochs)
        return model

    return data.Task(run, lambda m: F.cross_entropy(m(x[:2000])[0], y[:2000]).item(), epochs * -(-rows // BATCH))
