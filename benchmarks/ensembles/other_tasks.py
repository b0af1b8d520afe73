"""Ensembles for alarms, several labels, regression and anomaly detection.

    python -m benchmarks.ensembles.other_tasks

Four problems on data of scikit-learn, five seeds. Six members are trained side by side,
half of their weights pruned, with quantisation-aware training; at most four are kept by
their predictions on held-out data. All scores are those of int8 models on test data,
but for the baseline: one net of the same shape, trained equally long, in float32. The
best single learner is that of the lowest loss on the held-out data.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import keras_micronets as kmn
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, half_interval
from keras_micronets.edge.alarm import reconstruction_error

RESULTS = RESULTS_FOLDER / "other_tasks.json"
N_LEARNERS, N_MEMBERS = 6, 4
PRESET = {"learners": N_LEARNERS, "members": N_MEMBERS, "sparsity": 0.5}
ROWS = ("baseline, float32", "best single learner", "mean of all", "ensemble")


def tumours():
    """Return measurements of cell nuclei, and whether the tumour is benign."""
    return load_breast_cancer(return_X_y=True)


def diabetes():
    """Return measurements of patients, and the progression after a year."""
    return load_diabetes(return_X_y=True)


def digit_labels():
    """Return digits, and whether each is even, above four, and drawn with a loop."""
    x, digit = load_digits(return_X_y=True)
    loops = np.isin(digit, (0, 6, 8, 9))
    return x / 16, np.stack([digit % 2 == 0, digit > 4, loops], axis=1)


def strange_digits():
    """Return digits; fours are anomalies, all others are normal."""
    x, digit = load_digits(return_X_y=True)
    return x / 16, digit == 4


#: Data, task, units and activation of the output, loss, epochs, hidden units.
PROBLEMS = {
    "tumours": (tumours, "binary", 1, "sigmoid", "binary_crossentropy", 60, [24]),
    "diabetes": (diabetes, "regression", 1, None, "mse", 120, [24]),
    "digit labels": (
        digit_labels,
        "multilabel",
        3,
        "sigmoid",
        "binary_crossentropy",
        40,
        [48, 24],
    ),
    "strange digits": (
        strange_digits,
        "reconstruction",
        64,
        None,
        "mse",
        60,
        [48, 8, 48],
    ),
}


def split(problem, seed):
    """Return inputs and targets to train, to choose and to test on."""
    x, y = PROBLEMS[problem][0]()
    x, y = x.astype("float32"), y.astype("float32")
    rest, test = train_test_split(np.arange(len(x)), test_size=0.3, random_state=seed)
    train, choose = train_test_split(rest, test_size=0.3, random_state=seed)
    if problem == "strange digits":
        train, choose = train[y[train] == 0], choose[y[choose] == 0]
    if problem in ("tumours", "diabetes"):
        x = StandardScaler().fit(x[train]).transform(x)
    if problem == "diabetes":
        y = (y - y[train].mean()) / y[train].std()
    targets = x if problem == "strange digits" else y
    return (x[train], targets[train]), (x[choose], targets[choose]), (x[test], y[test])


def net(problem, n_features):
    """Return a function that builds a net for a problem."""
    _, _, units, activation, _, _, hidden = PROBLEMS[problem]

    def build():
        layers = [keras.layers.Dense(n, activation="relu") for n in hidden]
        output = keras.layers.Dense(units, activation=activation)
        return keras.Sequential([keras.Input((n_features,)), *layers, output])

    return build


def train(problem, seed, n, data, callbacks=()):
    """Return members trained side by side."""
    *_, loss, epochs, _ = PROBLEMS[problem]
    x, y = data
    joint = kmn.side_by_side(net(problem, x.shape[1]), n, seed=100 * seed)
    keras.utils.set_random_seed(seed)
    rate = keras.optimizers.schedules.CosineDecay(0.01, epochs * -(-len(x) // 32))
    joint.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss)
    joint.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks))
    return joint


def score(problem, p, x, y):
    """Return loss and score of predictions on test data: accuracy, R² or AUROC."""
    task = PROBLEMS[problem][1]
    if task == "reconstruction":
        errors = reconstruction_error(x, p)
        return float(errors[y == 0].mean()), float(roc_auc_score(y, errors))
    if task == "regression":
        return float(np.mean((p[:, 0] - y) ** 2)), float(r2_score(y, p[:, 0]))
    y = y.reshape(p.shape)
    right = np.clip(np.where(y > 0, p, 1 - p), 1e-7, 1)
    return float(-np.log(right).mean()), float(np.mean((p > 0.5) == (y > 0.5)))


def measure(problem, seed, folder):
    """Return loss and score of each row."""
    fitted, chosen_on, (x, y) = split(problem, seed)
    baseline = train(problem, seed, 1, fitted).members[0]
    pool = kmn.LearnerPool(folder)
    callbacks = [
        kmn.callbacks.WeightPruning(0.5),
        kmn.callbacks.QuantizationAwareTraining(),
        kmn.callbacks.LearnerCheckpoint(pool, every=PROBLEMS[problem][5]),
    ]
    train(problem, seed, N_LEARNERS, fitted, callbacks)
    ensemble = kmn.EnsemblePruner(pool, N_MEMBERS, random_state=seed)
    ensemble.prune(*chosen_on, verbose=0)
    best = max(ensemble.report_.rows, key=lambda row: row.ranking[1])
    p = pool.predict(x, verbose=0)
    predictions = {
        "baseline, float32": baseline.predict(x, verbose=0),
        "best single learner": p[best.index],
        "mean of all": p.mean(axis=0),
        "ensemble": ensemble.predict(x, verbose=0),
    }
    scores = {name: score(problem, one, x, y) for name, one in predictions.items()}
    return scores, len(ensemble.members_)


def table(results):
    """Return the means over the seeds, and the gains over the best single learner."""
    lines = [
        "| problem | task | seeds | row | members | loss | gain (95 %) | score |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for problem, (_, task, *_) in PROBLEMS.items():
        runs = [run for run in results["runs"] if run["problem"] == problem]
        best = np.array([run["best single learner"][0] for run in runs])
        for row in ROWS:
            values = np.array([run[row] for run in runs])
            loss, value = values.mean(axis=0)
            gains = best - values[:, 0]
            gain = f"{gains.mean():+.4f} ± {half_interval(gains):.4f}"
            if row == "best single learner":
                gain = ""
            counts = {"mean of all": N_LEARNERS, "ensemble": None}
            members = counts.get(row, 1) or np.mean([run["members"] for run in runs])
            lines.append(
                f"| {problem} | {task} | {len(runs)} | {row} | {members:.3g} | "
                f"{loss:.4f} | {gain} | {value:.3f} |"
            )
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    options.add_argument("--out", type=Path, default=RESULTS)
    arguments = options.parse_args()
    file = ResultsFile(arguments.out, PRESET)
    for problem in arguments.problems:
        for seed in arguments.seeds:
            about = {"problem": problem, "seed": seed}
            if file.has(about):
                continue
            with tempfile.TemporaryDirectory() as folder:
                scores, members = measure(problem, seed, Path(folder) / "pool")
            rounded = {
                name: np.round(pair, 6).tolist() for name, pair in scores.items()
            }
            file.add({**about, "members": members, **rounded})
    print(table(file.results))


if __name__ == "__main__":
    main()
