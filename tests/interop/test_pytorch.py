"""PyTorch modules as networks: the same outputs and dropout moments, and modules that stay as they are."""

import jax
import numpy as np
import pytest

import dubito
from dubito.interop.trained import MaskedWeights

torch = pytest.importorskip("torch", reason="networks of PyTorch need it")
nn, F = torch.nn, torch.nn.functional

DRAWS = 4000


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 12), nn.GELU(), nn.Dropout(0.4), nn.Linear(12, 3))

    def forward(self, x):
        return self.head(self.features(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.out(self.encoder(self.embedding(tokens)).mean(1))


class Attention(nn.Module):
    """With attention weights, whose dropout joins rows with heads."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0].mean(1))


class Functional(nn.Module):
    """Dropout without modules, twice in one module."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 9), nn.Linear(9, 7), nn.Linear(7, 2)

    def forward(self, x):
        x = F.dropout(torch.tanh(self.first(x)), 0.2, self.training)
        return self.third(F.dropout(F.silu(self.second(x)), 0.3, self.training))


class StochasticDepth(nn.Module):
    """A branch is dropped as a whole, as in torchvision and timm."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        branch = torch.tanh(self.first(x))
        if self.training:
            noise = torch.empty([x.shape[0], 1], dtype=x.dtype, device=x.device).bernoulli_(0.75)
            noise.div_(0.75)
            branch = branch * noise
        return self.last(x + branch)


class CausalPositions(nn.Module):
    """Positions, a causal mask and a mean over tokens that are no padding, all made on the way."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places, self.out = nn.Embedding(20, 8), nn.Embedding(6, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)

    def forward(self, tokens):
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.places(torch.arange(count, device=tokens.device))
        later = torch.triu(torch.ones(count, count, dtype=torch.bool), diagonal=1)
        x, _ = self.attention(x, x, x, attn_mask=later, need_weights=False)
        kept = (tokens != 0).float().unsqueeze(-1)
        return self.out((x * kept).sum(1) / kept.sum(1).clamp(min=1))


def columns(*layers):
    return lambda: nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 2))


FLOATS = torch.manual_seed(0) and torch.randn(5, 4)
CASES = {
    "convolutional": (Convolutional, torch.randn(5, 1, 8, 8), {"features.4": 0.2, "head.3": 0.4}),
    "transformer": (
        Transformer,
        torch.randint(0, 20, (5, 6)),
        {
            f"encoder.layers.{layer}.{name}": 0.1
            for layer in (0, 1)
            for name in ("self_attn", "dropout1", "dropout", "dropout2")
        },
    ),
    "attention": (Attention, torch.randn(5, 6, 8), {"attention": 0.3}),
    "stochastic depth": (StochasticDepth, FLOATS, {"dropout": 0.25}),
    "causal": (CausalPositions, torch.randint(0, 20, (5, 6)), {"attention": 0.2}),
    "functional": (Functional, FLOATS, {"dropout[0]": 0.2, "dropout[1]": 0.3}),
    "alpha": (columns(nn.SELU(), nn.AlphaDropout(0.2)), FLOATS, {"2": 0.2}),
    "one-dimensional": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 5, 2), nn.Dropout1d(0.3), nn.Flatten(), nn.Linear(15, 2)
        ),
        FLOATS,
        {"2": 0.3},
    ),
    "inplace": (columns(nn.ReLU(inplace=True), nn.Dropout(0.25, inplace=True)), FLOATS, {"2": 0.25}),
}
ACTIVATIONS = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Sigmoid,
        nn.Tanh,
        nn.Softplus,
    ),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign, nn.LogSigmoid, nn.PReLU),
)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_sites_are_those_of_the_module(name):
    make, x, sites = CASES[name]
    torch.manual_seed(1)
    module = make()
    module(x)  # moves the statistics of norms
    network = dubito.from_torch(module, x[:2])
    assert network.dropout == sites
    expected = module.eval()(x).detach().numpy()
    np.testing.assert_allclose(network.apply(network.weights(), x.numpy()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_moments_of_draws_are_those_of_the_module(name):
    """z-tests of means and variances over 4,000 draws of each."""
    make, x, _ = CASES[name]
    torch.manual_seed(1)
    module = make()
    module(x)
    network, weights = dubito.from_torch(module, x[:2]), None
    weights = network.weights()
    module.train()
    for part in module.modules():
        if hasattr(part, "running_mean"):
            part.eval()
    with torch.no_grad():
        theirs = np.stack([module(x).numpy() for _ in range(DRAWS)]).astype(float)
    seeds = jax.random.key_data(jax.random.split(jax.random.key(0), DRAWS))
    ours = np.asarray(jax.jit(jax.vmap(lambda s: network.apply(MaskedWeights(weights, s), x.numpy())))(seeds), float)
    assert theirs.std(0).min() > 0
    for power in (1, 2):
        a, b = ((each - theirs.mean(0)) ** power for each in (theirs, ours))
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / DRAWS)
        assert np.max(np.abs(z)) < 4.5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_translated(activation):
    module = columns(activation())()
    network = dubito.from_torch(module, FLOATS)
    np.testing.assert_allclose(
        network.apply(network.weights(), FLOATS.numpy()), module(FLOATS).detach(), rtol=1e-4, atol=1e-5
    )


IMAGES = {
    "same padding": nn.Conv2d(2, 4, (3, 2), padding="same", dilation=2),
    "groups and strides": nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False),
    "average": nn.AvgPool2d(3, stride=2, padding=1),
    "average of what is there": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "average to the end": nn.AvgPool2d(3, stride=2, ceil_mode=True),
    "maximum to the end": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "maximum of places apart": nn.MaxPool2d((3, 2), stride=(1, 2), padding=1, dilation=(2, 1)),
    "maximum of many": nn.MaxPool2d((6, 4), stride=2, padding=2, dilation=(1, 2)),
    "adaptive": nn.AdaptiveAvgPool2d((3, 2)),
    "groups": nn.GroupNorm(2, 2),
    "instances": nn.InstanceNorm2d(2, affine=True),
    "layers": nn.LayerNorm(7),
    "root mean square": nn.RMSNorm(7),
    "reflection": nn.ReflectionPad2d((1, 2, 0, 1)),
    "zeros": nn.ZeroPad2d(1),
}


@pytest.mark.parametrize("name", IMAGES)
def test_operations_of_images_are_translated(name):
    torch.manual_seed(2)
    x = torch.randn(3, 2, 8, 7)
    module = nn.Sequential(IMAGES[name], nn.Flatten())
    network = dubito.from_torch(module, x)
    np.testing.assert_allclose(network.apply(network.weights(), x.numpy()), module(x).detach(), rtol=1e-4, atol=1e-5)


def test_convolutions_have_channels_last():
    """In loops, in which draws are evaluated, XLA's convolution on CPU is many times slower with channels first."""
    network = dubito.from_torch(Convolutional(), torch.zeros(2, 1, 8, 8))
    program = jax.make_jaxpr(network.apply)(network.weights(), np.zeros((2, 1, 8, 8), np.float32))
    found = [eqn for eqn in program.eqns if eqn.primitive.name == "conv_general_dilated"]
    assert [eqn.params["dimension_numbers"].lhs_spec for eqn in found] == [(0, 3, 1, 2)]


def test_module_and_generator_stay_as_they_are():
    module = Convolutional().train()
    module.head.eval()
    seen = []
    module.register_forward_hook(lambda *given: seen.append(len(given)))
    modes = [part.training for part in module.modules()]
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    dubito.from_torch(module, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), generator)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert len(module._forward_hooks) == 1


def test_module_stays_as_it_is_after_an_exception():
    class Broken(Convolutional):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else None

    module = Broken().eval()
    with pytest.raises(ValueError, match="Broken cannot be exported"):
        dubito.from_torch(module, torch.randn(2, 1, 8, 8))
    assert not any(part.training for part in module.modules())


def test_operation_without_a_translation_is_named_and_can_be_given():
    class Fraction(nn.Module):
        def forward(self, x):
            return torch.frac(x)

    with pytest.raises(ValueError, match=r"aten\.frac\.default is not translated.*operations="):
        dubito.from_torch(Fraction(), FLOATS)
    network = dubito.from_torch(Fraction(), FLOATS, operations={"aten.frac.default": lambda x: x - jax.numpy.trunc(x)})
    np.testing.assert_allclose(network.apply({}, FLOATS.numpy()), torch.frac(FLOATS), atol=1e-6)


def of_rows(function):
    """A module with a linear layer, whose outputs h (rows, 5) a function makes into a column."""

    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 5)

        def forward(self, x):
            return function(self.linear(x)).reshape(x.shape[0], -1)

    return Of()


FUNCTIONS = {
    "norm": lambda h: h.norm(dim=1),
    "norm of all but one": lambda h: torch.linalg.vector_norm(h, ord=3, dim=(1,), keepdim=True),
    "std": lambda h: h.std(1) + h.std(1, unbiased=False),
    "variance": lambda h: h.var(1),
    "logsumexp": lambda h: torch.logsumexp(h, 1),
    "extremes": lambda h: h.max(1)[0] + h.min(1).values + h.argmax(1),
    "topk": lambda h: h.topk(2, 1)[0] - h.topk(2, 1, largest=False)[0],
    "gather": lambda h: h.gather(1, h.argmax(1, keepdim=True)),
    "flip and roll": lambda h: h.flip(1) + h.roll(2, 1),
    "types": lambda h: h.to(torch.float64).float() + h.long().type_as(h) + (h > 0).to(h.dtype),
    "constants": lambda h: h + torch.linspace(0, 1, 5) + h.new_full((1, 5), 2.0) + torch.arange(5, dtype=torch.float32),
    "in place": lambda h: _added_in_place(h),
    "bilinear": lambda h: F.bilinear(h, h, torch.linspace(-1, 1, 50).reshape(2, 5, 5)),
}


def _added_in_place(h):
    other = h * 2
    other.add_(1).mul_(3)
    return other + h


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tensors_are_translated(name):
    torch.manual_seed(4)
    module = of_rows(FUNCTIONS[name])
    network = dubito.from_torch(module, FLOATS)
    exact = module(FLOATS).detach()
    np.testing.assert_allclose(network.apply(network.weights(), FLOATS.numpy()), exact, rtol=1e-4, atol=1e-5)


class TokensAndNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(20, 3), nn.Dropout(0.1), nn.Linear(7, 2)

    def forward(self, x):
        return self.head(self.drop(torch.cat([self.embedding(x["ids"]), x["values"]], 1)))


def test_dicts_are_inputs_of_predictions_too():
    torch.manual_seed(3)
    module = TokensAndNumbers()
    x = {"values": torch.randn(60, 4), "ids": torch.randint(0, 20, (60,))}
    network = dubito.from_torch(module, {name: tensor[:2] for name, tensor in x.items()})
    exact = module.eval()(x).detach().numpy()
    arrays = {name: tensor.numpy() for name, tensor in x.items()}
    np.testing.assert_allclose(network.apply(network.weights(), arrays), exact, rtol=1e-5, atol=1e-6)
    laplace = dubito.LaplaceApproximation(structure="dense")
    options = {"likelihood": "gaussian", "key": jax.random.key(0)}
    posterior = dubito.wrap(network, laplace, train=(arrays, exact + 0.1), where="head", **options)
    answer = dubito.predict(posterior, arrays, key=jax.random.key(1), draws=1000)
    assert sorted(posterior.point.params["network"]) == ["head.bias", "head.weight"]
    assert np.max(np.abs(answer.mean - exact) / np.sqrt(answer.epistemic / 1000)) < 4.8


def moved(module):
    """After some passes in training mode, in which a spectral norm moves its vectors."""
    for _ in range(3):
        module(FLOATS)
    return module


NORMS = {
    "weight": nn.utils.parametrizations.weight_norm,
    "spectral": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("name", NORMS)
def test_normalized_weights_and_hooks_are_those_of_the_evaluation_mode(name):
    module = columns(nn.ReLU(), nn.Dropout(0.1))()
    NORMS[name](module[0])
    calls = []
    module[3].register_forward_hook(lambda part, given, found: calls.append(1) or 2 * found)
    moved(module)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    hooks = dict(module[3]._forward_hooks)
    network = dubito.from_torch(module, FLOATS)
    assert network.dropout == {"2": 0.1} and module[3]._forward_hooks == hooks
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    exact = module.eval()(FLOATS).detach().numpy()
    np.testing.assert_allclose(network.apply(network.weights(), FLOATS.numpy()), exact, rtol=1e-5, atol=1e-6)


def test_several_outputs_and_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, x, z):
            return {"sum": self.a(x) + self.b(z), "difference": self.a(x) - self.b(z)}

    module, z = Two(), torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"several values, \['difference', 'sum'\]"):
        dubito.from_torch(module, FLOATS, z)
    network = dubito.from_torch(module, FLOATS, z, output="difference")
    found = network.apply(network.weights(), (FLOATS.numpy(), z.numpy()))
    np.testing.assert_allclose(found, module(FLOATS, z)["difference"].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_half_precision_and_compiled_modules():
    module = columns(nn.ReLU(), nn.Dropout(0.1))()
    half = columns(nn.ReLU(), nn.Dropout(0.1))().to(torch.bfloat16)
    half.load_state_dict(module.state_dict())
    network = dubito.from_torch(half, FLOATS.to(torch.bfloat16))
    found = network.apply(network.weights(), FLOATS.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, module.eval()(FLOATS).detach(), atol=0.05)
    compiled = dubito.from_torch(torch.compile(module), FLOATS)
    np.testing.assert_allclose(
        compiled.apply(compiled.weights(), FLOATS.numpy()), module.eval()(FLOATS).detach(), rtol=1e-5, atol=1e-6
    )


def test_batch_statistics_are_refused():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="statistics of each batch"):
        dubito.from_torch(module, FLOATS)


def test_predictions_of_a_wrapped_module():
    torch.manual_seed(0)
    module = Functional()
    x = FLOATS.repeat(20, 1)
    y = module.eval()(x).detach().numpy() + 0.1
    network = dubito.from_torch(module, x[:2])
    key = jax.random.key(0)
    posterior = dubito.wrap(network, dubito.MCDropout(), validation=(x, y), likelihood="gaussian", key=key)
    answer = dubito.predict(posterior, x[:10], key=key)
    assert answer.mean.shape == (10, 2) and np.all(answer.epistemic > 0)
    again = dubito.predict(posterior, x[4:5], key=key)
    np.testing.assert_allclose(again.mean[0], answer.mean[4], rtol=1e-4, atol=1e-5)


def test_kronecker_curvature_of_linear_layers():
    """The evidence from factors of products in float64: weights Σ a aᵀ / N ⊗ Σ g gᵀ, biases Σ g gᵀ."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x = torch.randn(40, 4)
    y = torch.stack([x[:, 0] + x[:, 1], torch.sin(x[:, 2])], 1)
    precision, scale = 4.0, 0.7
    posterior = dubito.wrap(
        dubito.from_torch(module, x[:2]),
        dubito.LaplaceApproximation(structure="kronecker"),
        likelihood=dubito.Gaussian(precision=precision, targets=2),
        train=(x.numpy(), y.numpy()),
        prior=dubito.Normal(scale, biases=scale),
        key=jax.random.key(0),
    )
    w1, b1, w2, b2 = (weight.detach().double().numpy() for weight in module.parameters())
    inputs = x.double().numpy()
    hidden = np.tanh(inputs @ w1.T + b1)
    f = hidden @ w2.T + b2
    slopes = (1 - hidden[:, None] ** 2) * w2  # (rows, outputs, hidden)
    outputs = [precision * np.einsum("nki,nkj->ij", slopes, slopes), 40 * precision * np.eye(2)]
    log_evidence = np.sum(np.log(precision / (2 * np.pi)) / 2 - precision * (y.double().numpy() - f) ** 2 / 2)
    log_evidence -= sum(np.sum(weight**2) for weight in (w1, b1, w2, b2)) / (2 * scale**2)
    for a, g in zip((inputs, hidden), outputs, strict=True):
        for block in (np.kron(g, a.T @ a / 40), g):
            log_evidence -= np.linalg.slogdet(np.eye(len(block)) + scale**2 * block)[1] / 2
    np.testing.assert_allclose(posterior.log_evidence, log_evidence, rtol=1e-5)
