"""Small versions of architectures that are hard to cut, for both frameworks.

Each is a function of a builder, `KerasBuilder` or `TorchBuilder`, that returns inputs
and outputs.
"""

from functools import partial


def residual(net):
    x = inputs = net.image()
    x = _conv(net, x, 16)
    for filters, stride in ((16, 1), (32, 2)):
        shortcut = x if stride == 1 else net.conv(x, filters, 1, stride)(x)
        y = _conv(net, x, filters, stride=stride)
        y = _conv(net, y, filters, activation=None)
        x = net.activate(net.add(shortcut, y), "relu")
    return inputs, _classify(net, x)


def preactivation(net):
    x = inputs = net.image()
    x = net.conv(x, 16)(x)
    for _ in range(2):
        y = net.activate(net.norm(x)(x), "relu")
        y = _conv(net, y, 24)
        x = net.add(x, net.conv(y, 16)(y))
    return inputs, _classify(net, x)


def grouped(net):
    """A block of ResNeXt."""
    x = inputs = net.image()
    x = _conv(net, x, 32)
    y = _conv(net, x, 32, 1)
    y = _conv(net, y, 32, groups=4)
    x = net.add(x, _conv(net, y, 32, 1, activation=None))
    return inputs, _classify(net, x)


def dense_block(net):
    x = inputs = net.image()
    x = net.conv(x, 16)(x)
    for _ in range(3):
        y = net.activate(net.norm(x)(x), "relu")
        x = net.join([x, net.conv(y, 8)(y)])
    return inputs, _classify(net, net.conv(x, 16, 1)(x))


def inception(net):
    x = inputs = net.image()
    x = _conv(net, x, 16)
    branches = [_conv(net, x, 8, 1), _conv(net, _conv(net, x, 8, 1), 16)]
    branches.append(_conv(net, _conv(net, _conv(net, x, 8, 1), 8, 5), 8))
    return inputs, _classify(net, net.join(branches))


def squeeze(net):
    """Two fire modules of SqueezeNet."""
    x = inputs = net.image()
    x = _conv(net, x, 16)
    for _ in range(2):
        y = _conv(net, x, 8, 1)
        x = net.join([_conv(net, y, 16, 1), _conv(net, y, 16)])
    return inputs, _classify(net, x)


def inverted_residual(net):
    """A block of MobileNetV2."""
    x = inputs = net.image()
    x = _conv(net, x, 16)
    y = _conv(net, x, 48, 1)
    y = net.activate(net.norm(y)(net.depthwise(y)(y)), "relu")
    x = net.add(x, _conv(net, y, 16, 1, activation=None))
    return inputs, _classify(net, x)


def excitation(net):
    """A block of MobileNetV3, with its gates."""
    x = inputs = net.image()
    x = _conv(net, x, 16)
    y = _conv(net, x, 32, 1)
    y = net.activate(net.norm(y)(net.depthwise(y)(y)), "silu")
    gate = net.mean(y)
    gate = net.activate(net.conv(gate, 8, 1)(gate), "relu")
    gate = net.activate(net.conv(gate, 32, 1)(gate), "sigmoid")
    y = net.multiply(y, gate)
    x = net.add(x, _conv(net, y, 16, 1, activation=None))
    return inputs, _classify(net, x)


def shuffle(net):
    """A block of ShuffleNetV2: one half passes, then the halves are shuffled."""
    x = inputs = net.image()
    x = _conv(net, x, 32)
    for _ in range(2):
        passed, y = net.halves(x)
        y = _conv(net, y, 16, 1)
        y = net.norm(y)(net.depthwise(y)(y))
        x = net.shuffle(net.join([passed, _conv(net, y, 16, 1)]), 2)
    return inputs, _classify(net, x)


def ghost(net):
    """Modules of GhostNet: half of the channels are cheap copies of the others."""
    x = inputs = net.image()
    x = _conv(net, x, 16)
    for _ in range(2):
        y = _conv(net, x, 12, 1)
        x = net.join([y, net.activate(net.norm(y)(net.depthwise(y)(y)), "relu")])
    return inputs, _classify(net, x)


def partial_stage(net):
    """A stage of YOLOv8: both halves and all that one half becomes are joined."""
    x = inputs = net.image()
    x = _conv(net, x, 32, 1)
    first, last = net.halves(x)
    tensors = [first, last]
    for _ in range(2):
        last = net.add(last, _conv(net, _conv(net, last, 16), 16))
        tensors.append(last)
    return inputs, _classify(net, _conv(net, net.join(tensors), 32, 1))


def pyramid(net):
    """A feature pyramid with one head for both levels."""
    x = inputs = net.image()
    fine = _conv(net, x, 16)
    coarse = _conv(net, net.pool(fine), 32)
    top = net.conv(coarse, 16, 1)(coarse)
    low = net.add(net.conv(fine, 16, 1)(fine), net.enlarge(top))
    first = net.conv(low, 16)
    last = net.conv(first(low), 4, 1)
    return inputs, [last(net.activate(first(x), "relu")) for x in (low, top)]


def u_net(net):
    x = inputs = net.image()
    wide = _conv(net, x, 16)
    deep = _conv(net, net.pool(wide), 32)
    x = net.join([wide, net.transposed(deep, 16)(deep)])
    x = _conv(net, x, 16)
    return inputs, net.conv(x, 3, 1)(x)


def dilated(net):
    """The pooling of DeepLab: convolutions of several dilations are joined."""
    x = inputs = net.image()
    x = _conv(net, x, 24)
    branches = [_conv(net, x, 12, dilation=n) for n in (1, 2, 4)]
    return inputs, _classify(net, _conv(net, net.join(branches), 24, 1))


def spatial_attention(net):
    """A block of CBAM: a gate for each channel, then one for each pixel."""
    x = inputs = net.image()
    x = _conv(net, x, 24)
    gate = net.mean(x)
    gate = net.activate(net.conv(gate, 8, 1)(gate), "relu")
    gate = net.activate(net.conv(gate, 24, 1)(gate), "sigmoid")
    x = net.multiply(x, gate)
    gate = net.mean_and_largest_channel(x)
    x = net.multiply(x, net.activate(net.conv(gate, 1, 7)(gate), "sigmoid"))
    return inputs, _classify(net, _conv(net, x, 16))


def plain(net):
    """The end of VGG: images become vectors."""
    x = inputs = net.image()
    x = net.pool(_conv(net, net.pool(_conv(net, x, 16)), 24))
    x = net.flatten(x)
    x = net.activate(net.dense(x, 48)(x), "relu")
    return inputs, net.dense(x, 10)(x)


def transformer(net):
    x = inputs = net.sequence()
    x = net.dense(x, 24)(x)
    y = net.layer_norm(x)(x)
    x = net.add(x, net.attention(y, 4)(y))
    return inputs, _classify_steps(net, _mixed(net, x, 48))


def patches(net):
    """A vision transformer of one block."""
    x = inputs = net.image()
    x = net.as_tokens(net.pool(net.pool(net.conv(x, 24)(x))))
    y = net.layer_norm(x)(x)
    x = net.add(x, net.attention(y, 4)(y))
    return inputs, _classify_steps(net, _mixed(net, x, 48))


def recurrent(name, net):
    x = inputs = net.sequence()
    x = net.recurrent(x, 24, name)(x)
    x = net.recurrent(x, 16, name)(x)
    return inputs, _classify_steps(net, x)


def generator(net):
    """A vector becomes an image."""
    x = inputs = net.image()
    x = net.flatten(_conv(net, net.pool(net.pool(x)), 8))
    x = net.activate(net.dense(x, 16)(x), "relu")
    x = net.as_image(net.dense(x, 16 * 16)(x), 4)
    x = net.activate(net.transposed(x, 8)(x), "relu")
    return inputs, net.conv(x, 3)(x)


def siamese(net):
    """One encoder for two inputs, and the distance of their codes."""
    inputs = [net.image(), net.image()]
    first = net.conv(inputs[0], 16)
    last = net.conv(first(inputs[0]), 24)
    codes = [last(net.activate(first(x), "relu")) for x in inputs]
    return inputs, _classify(net, net.distance(*codes))


def gated(net):
    """A block of WaveNet."""
    x = inputs = net.sequence()
    x = net.conv1d(x, 24)(x)
    for dilation in (1, 2):
        parts = (("tanh", 24), ("sigmoid", 24))
        signal, gate = (
            net.activate(net.conv1d(x, n, dilation=dilation)(x), name)
            for name, n in parts
        )
        y = net.multiply(signal, gate)
        x = net.add(x, net.conv1d(y, 24, 1)(y))
    return inputs, _classify_steps(net, x)


NETS = {
    "ResNet": residual,
    "ResNet, preactivated": preactivation,
    "ResNeXt": grouped,
    "DenseNet": dense_block,
    "Inception": inception,
    "SqueezeNet": squeeze,
    "MobileNetV2": inverted_residual,
    "MobileNetV3": excitation,
    "ShuffleNetV2": shuffle,
    "GhostNet": ghost,
    "YOLOv8": partial_stage,
    "feature pyramid": pyramid,
    "U-Net": u_net,
    "DeepLab": dilated,
    "CBAM": spatial_attention,
    "VGG": plain,
    "transformer": transformer,
    "vision transformer": patches,
    "LSTM": partial(recurrent, "LSTM"),
    "GRU": partial(recurrent, "GRU"),
    "generator": generator,
    "siamese": siamese,
    "WaveNet": gated,
}


def _conv(net, x, filters, size=3, activation="relu", **options):
    x = net.conv(x, filters, size, **options)(x)
    x = net.norm(x)(x)
    return net.activate(x, activation) if activation else x


def _mixed(net, x, units):
    """The second half of a transformer's block."""
    y = net.layer_norm(x)(x)
    y = net.activate(net.dense(y, units)(y), "gelu")
    return net.add(x, net.dense(y, x.shape[-1])(y))


def _classify(net, x):
    x = net.flatten(net.mean(x))
    return net.dense(x, 10)(x)


def _classify_steps(net, x):
    x = net.mean_step(x)
    return net.dense(x, 10)(x)
