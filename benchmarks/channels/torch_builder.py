"""Builds the networks of `hard_nets.py` with PyTorch; see `keras_builder.py`."""

import torch
from torch import nn


class Symbol:
    """The result of a step of a `Graph`, of a known shape without the batch."""

    def __init__(self, graph, index, shape):
        self.graph, self.index, self.shape = graph, index, tuple(shape)


class Graph(nn.Module):
    """Runs modules and functions in the order in which they were called."""

    def __init__(self):
        super().__init__()
        self.modules_used = nn.ModuleList()
        self.steps, self.inputs, self.n_symbols = [], [], 0

    def call(self, function, *symbols):
        """Add a step; the shapes of its results are those of a trial on zeros."""
        zeros = [torch.zeros(2, *symbol.shape) for symbol in symbols]
        with torch.no_grad():
            results = function(*zeros)
        several = isinstance(results, list | tuple)
        results = list(results) if several else [results]
        made = [self._symbol(value.shape[1:]) for value in results]
        self.steps.append((function, [s.index for s in symbols], made))
        return made if several else made[0]

    def _symbol(self, shape):
        self.n_symbols += 1
        return Symbol(self, self.n_symbols, shape)

    def input(self, shape):
        symbol = self._symbol(shape)
        self.inputs.append(symbol)
        return symbol

    def last_modules(self):
        """Return the modules that make the outputs."""
        made_by = {one.index: f for f, _, made in self.steps for one in made}
        functions = [made_by[symbol.index] for symbol in self.outputs]
        return [m for m in self.modules_used if any(m is f for f in functions)]

    def forward(self, *tensors):
        pairs = zip(self.inputs, tensors, strict=True)
        values = {symbol.index: tensor for symbol, tensor in pairs}
        for function, indices, made in self.steps:
            results = function(*(values[i] for i in indices))
            results = results if isinstance(results, list | tuple) else [results]
            for symbol, value in zip(made, results, strict=True):
                values[symbol.index] = value
        outputs = tuple(values[symbol.index] for symbol in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


class TorchBuilder:
    """Builds a `Graph` of PyTorch modules."""

    def __init__(self):
        self.graph = Graph()

    def image(self, channels=3, side=16):
        return self.graph.input((channels, side, side))

    def sequence(self, steps=16, channels=6):
        return self.graph.input((steps, channels))

    def model(self, inputs, outputs):
        self.graph.outputs = outputs if isinstance(outputs, list) else [outputs]
        return self.graph.eval()

    def _layer(self, module, around=None):
        """Return a function that calls a module, or a function with it."""
        self.graph.modules_used.append(module.eval())
        function = module if around is None else lambda *x: around(module, *x)
        return lambda *symbols: self.graph.call(function, *symbols)

    def conv(self, x, filters, size=3, stride=1, groups=1, dilation=1):
        options = {"padding": dilation * (size // 2), "dilation": dilation}
        module = nn.Conv2d(x.shape[0], filters, size, stride, groups=groups, **options)
        return self._layer(module)

    def conv1d(self, x, filters, size=3, dilation=1):
        padding = dilation * (size // 2)
        module = nn.Conv1d(x.shape[1], filters, size, 1, padding, dilation)
        return self._layer(module, lambda m, x: m(x.transpose(1, 2)).transpose(1, 2))

    def depthwise(self, x, size=3):
        n = x.shape[0]
        return self._layer(nn.Conv2d(n, n, size, 1, size // 2, groups=n))

    def transposed(self, x, filters):
        return self._layer(nn.ConvTranspose2d(x.shape[0], filters, 2, 2))

    def norm(self, x):
        return self._layer(nn.BatchNorm2d(x.shape[0]))

    def layer_norm(self, x):
        return self._layer(nn.LayerNorm(x.shape[-1]))

    def dense(self, x, units):
        return self._layer(nn.Linear(x.shape[-1], units))

    def attention(self, x, heads):
        module = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        return self._layer(module, lambda m, x: m(x, x, x)[0])

    def recurrent(self, x, units, name):
        module = getattr(nn, name)(x.shape[-1], units, batch_first=True)
        return self._layer(module, lambda m, x: m(x)[0])

    def activate(self, x, name):
        function = getattr(nn.functional, name.replace("hard_", "hard"))
        return self.graph.call(function, x)

    def add(self, x, y):
        return self.graph.call(torch.add, x, y)

    def multiply(self, x, y):
        return self.graph.call(torch.mul, x, y)

    def distance(self, x, y):
        return self.graph.call(lambda x, y: torch.abs(x - y), x, y)

    def join(self, tensors):
        axis = 1 if len(tensors[0].shape) == 3 else -1
        return self.graph.call(lambda *x: torch.cat(x, axis), *tensors)

    def halves(self, x):
        return self.graph.call(lambda x: torch.chunk(x, 2, 1), x)

    def shuffle(self, x, groups):
        def mix(x):
            n, channels, height, width = x.shape
            x = x.reshape(n, groups, channels // groups, height, width)
            return x.transpose(1, 2).reshape(n, channels, height, width)

        return self.graph.call(mix, x)

    def mean(self, x):
        return self.graph.call(lambda x: x.mean((2, 3), keepdim=True), x)

    def mean_and_largest_channel(self, x):
        def both(x):
            return torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)

        return self.graph.call(both, x)

    def mean_step(self, x):
        return self.graph.call(lambda x: x.mean(1), x)

    def pool(self, x):
        return self.graph.call(lambda x: nn.functional.max_pool2d(x, 2), x)

    def enlarge(self, x):
        return self.graph.call(lambda x: nn.functional.interpolate(x, None, 2), x)

    def flatten(self, x):
        return self.graph.call(lambda x: x.flatten(1), x)

    def as_image(self, x, side):
        return self.graph.call(lambda x: x.reshape(len(x), -1, side, side), x)

    def as_tokens(self, x):
        return self.graph.call(lambda x: x.flatten(2).transpose(1, 2), x)
