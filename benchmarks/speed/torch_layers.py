"""Three libraries of Bayesian layers for PyTorch on 784-400-400-10, each used as in its README."""

import math

import data
import torch
from pytorch import BATCH, optimized, start, tensors, train
from torch import nn
from torch.nn import functional as F

SIZES = ((784, 400), (400, 400), (400, 10))


def fit(model, loss, rows, epochs, threads):
    """``loss(x, y)`` is per example."""
    torch.set_num_threads(threads)
    x, y = tensors(*data.images(rows))
    y = y.long()
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def run():
        model.load_state_dict(start, strict=False)
        train(optimized(model.parameters(), loss), x, y, epochs)
        return model

    def check(model):
        f = model(x[:2000])
        return F.cross_entropy(f[0] if isinstance(f, tuple) else f, y[:2000]).item()

    return data.Task(run, check, epochs * -(-rows // BATCH))


def torchbnn(rows, epochs, threads=2):
    import torchbnn as bnn

    linear = [bnn.BayesLinear(0, data.INITIAL_SCALE, *size) for size in SIZES]
    for layer in linear:  # its layers start at the prior's scale; the prior is then made the other sides', 1/√fan-in
        start(layer.weight_mu, layer.bias_mu)
        layer.prior_sigma = layer.in_features**-0.5
        layer.prior_log_sigma = math.log(layer.prior_sigma)
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    kl = bnn.BKLLoss(reduction="sum")
    return fit(model, lambda a, b: F.cross_entropy(model(a), b) + kl(model).sum() / rows, rows, epochs, threads)


class BayesianTorch(nn.Module):
    def __init__(self):
        from bayesian_torch.layers import LinearReparameterization

        nn.Module.__init__(self)
        rho = torch.tensor(data.INITIAL_SCALE).expm1().log().item()
        self.layers = nn.ModuleList(
            LinearReparameterization(*size, prior_variance=size[0] ** -0.5, posterior_rho_init=rho) for size in SIZES
        )  # what it calls the prior's variance is used as its standard deviation
        for layer in self.layers:
            start(layer.mu_weight, layer.mu_bias)

    def forward(self, x):
        total = 0
        for number, layer in enumerate(self.layers):
            x, kl = layer(torch.relu(x) if number else x)
            total = total + kl * layer.mu_weight.numel()  # it gives the mean over the weights
        return x, total


def bayesian_torch(rows, epochs, threads=2):
    model = BayesianTorch()

    def loss(a, b):
        f, kl = model(a)
        return F.cross_entropy(f, b) + kl / rows

    return fit(model, loss, rows, epochs, threads)


def blitz(rows, epochs, threads=2):
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator

    rho = torch.tensor(data.INITIAL_SCALE).expm1().log().item()

    @variational_estimator
    class Model(nn.Sequential):
        pass

    linear = [BayesianLinear(*size, prior_sigma_1=size[0] ** -0.5, posterior_rho_init=rho) for size in SIZES]
    for layer in linear:
        start(layer.weight_mu, layer.bias_mu)
    model = Model(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])

    def loss(a, b):
        return model.sample_elbo(a, b, criterion=F.cross_entropy, sample_nbr=1, complexity_cost_weight=1 / rows)

    return fit(model, loss, rows, epochs, threads)
