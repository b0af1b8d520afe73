"""Synthetic vibration of a rotating machine: faults, drift, sensor and label noise.

One sample is 512 readings of two accelerometers at 2 kHz, 0.256 s of a machine whose
shaft turns 18 to 32 times a second. A reading is the sum of

* the shaft's frequency and two harmonics, at amplitudes that vary with the load;
* mains hum, and noise whose power falls with the frequency;
* the signature of one fault, whose severity varies:

  ============  ====================================================================
  healthy       none
  imbalance     more of the shaft's frequency, radially
  misalignment  more of its second and third harmonic, axially
  looseness     half-order harmonics, and clipping
  outer race    impacts at 3.05 times the shaft's frequency, each rings at 620 Hz
  inner race    impacts at 4.95 times, weaker and stronger once a turn
  gear          mesh at 17 times, with sidebands one shaft frequency away
  ============  ====================================================================

* white noise of the sensors.

The factors are those that textbooks of vibration monitoring give for such faults (for
example Randall, "Vibration-based Condition Monitoring", 2011); amplitudes were chosen
so that a small network errs on some of the samples.
"""

import numpy as np

__all__ = ["CLASSES", "make_vibration", "mislabel"]

CLASSES = (
    "healthy",
    "imbalance",
    "misalignment",
    "looseness",
    "outer race",
    "inner race",
    "gear",
)
RATE, LENGTH = 2000, 512


def make_vibration(n_samples, *, seed, sensor_noise=1.0, drift=0.0):
    """Return `(x, y)`: float32 `(n_samples, 512, 2)` and integer labels.

    Args:
        n_samples: Integer.
        seed: Integer.
        sensor_noise: Float, standard deviation of the white noise.
        drift: Float; 1 lets the shaft turn 20 % faster and halves the gain of the
            second accelerometer, as after a year of service.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(CLASSES), n_samples)
    x = np.stack([_sample(rng, CLASSES[label], drift) for label in y])
    x += sensor_noise * rng.normal(size=x.shape)
    x[..., 1] *= 1.0 - 0.5 * drift
    return x.astype("float32"), y


def mislabel(y, share, *, seed):
    """Return labels of which a share is replaced by another class."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(y))[: round(share * len(y))]
    y = y.copy()
    y[wrong] = (y[wrong] + rng.integers(1, len(CLASSES), len(wrong))) % len(CLASSES)
    return y


def _sample(rng, fault, drift):
    time = np.arange(LENGTH) / RATE
    turns = rng.uniform(18, 32) * (1 + 0.2 * drift) * time + rng.uniform()
    load = rng.uniform(0.7, 1.3)
    severity = rng.lognormal(0.1, 0.4)
    axes = np.stack([_shaft(rng, turns, load) for _ in range(2)], axis=1)
    axes += _hum(rng, time)[:, None] + _low_noise(rng)
    return axes + severity * _FAULTS[fault](rng, turns, time)


def _shaft(rng, turns, load):
    return load * sum(
        rng.uniform(0.5, 1.0) / order * _wave(rng, order * turns) for order in (1, 2, 3)
    )


def _wave(rng, cycles):
    return np.sin(2 * np.pi * (cycles + rng.uniform()))


def _hum(rng, time):
    return rng.uniform(0, 0.4) * _wave(rng, 50 * time)


def _low_noise(rng):
    spectrum = np.fft.rfft(rng.normal(size=(LENGTH, 2)), axis=0)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))[:, None]
    return np.fft.irfft(spectrum, n=LENGTH, axis=0)


def _healthy(rng, turns, time):
    return np.zeros((LENGTH, 2))


def _imbalance(rng, turns, time):
    return np.outer(1.2 * _wave(rng, turns), (1.0, 0.2))


def _misalignment(rng, turns, time):
    both = _wave(rng, 2 * turns) + 0.6 * _wave(rng, 3 * turns)
    return np.outer(both, (0.3, 1.0))


def _looseness(rng, turns, time):
    orders = sum(0.5 * _wave(rng, order * turns) for order in (0.5, 1.5, 2.5, 3.5))
    return np.outer(np.clip(1.5 * orders, -1, 1), (1.0, 0.7))


def _outer_race(rng, turns, time):
    return np.outer(_ringing(3.05 * turns, time), (1.0, 0.6))


def _inner_race(rng, turns, time):
    modulation = 0.6 + 0.4 * _wave(rng, turns)
    return np.outer(modulation * _ringing(4.95 * turns, time), (1.0, 0.6))


def _gear(rng, turns, time):
    mesh = (1 + 0.8 * _wave(rng, turns)) * _wave(rng, 17 * turns)
    return np.outer(0.6 * mesh, (0.7, 1.0))


def _ringing(cycles, time):
    """Return decaying oscillations of 620 Hz, one from each impact on."""
    impacts = np.diff(np.floor(cycles), prepend=np.floor(cycles[0])) > 0
    decay = np.exp(-time[:60] * 250) * np.sin(2 * np.pi * 620 * time[:60])
    return 3.0 * np.convolve(impacts, decay)[: len(time)]


_FAULTS = {
    "healthy": _healthy,
    "imbalance": _imbalance,
    "misalignment": _misalignment,
    "looseness": _looseness,
    "outer race": _outer_race,
    "inner race": _inner_race,
    "gear": _gear,
}
