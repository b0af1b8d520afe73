"""The experiment of Prune2Edge and MicroNets, with the baselines that it needs.

    python -m benchmarks.cifar10.papers --data cifar10.npz

For each network and seed a parent is trained. A pool of learners is sampled from it
as in the authors' public code (magnitude pruning to 20-55 %, one of three losses and
three batch sizes, two epochs of Adam at 1e-5), quantised to int8 after training, and
clustered by k-means on the vectors of predicted labels. "Accuracy first" keeps the
cluster with the highest mean accuracy, "diversity first" the most accurate learner of
each cluster. The papers omit these baselines: the parent tuned for as many epochs as
all learners together, with the learners' optimizer or its own; k-means on
probabilities; the four most accurate learners; four random learners; a deep ensemble.

Selections use images set aside from the training set and the predictions of the int8
files; scores use all test images. Rows are written as each run ends; completed runs
are not repeated.
"""

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import keras_micronets as kmn
from benchmarks.cifar10.papers_report import statement, table
from benchmarks.cifar10.pipeline import (
    clock,
    fit,
    float_file,
    mean_disagreement,
    mean_row,
    read,
    row,
    write,
)
from benchmarks.lib import data, nets
from benchmarks.lib.results import RESULTS_FOLDER
from keras_micronets import selection
from keras_micronets.prune2edge import train_prune2edge

N_MEMBERS = 4
LEARNER_EPOCHS = 2
PARENT_RATE = 2e-3
RESULTS = RESULTS_FOLDER / "papers.json"
STRATEGIES = {"accuracy first": "best_cluster", "diversity first": "accuracy"}


@dataclass(frozen=True)
class Setting:
    """What identifies a run.

    Attributes:
        data: Name of the data set.
        net: Name of a net.
        seed: Integer.
        train_size: Images drawn; a fifth of them is to choose by.
        size: Side of the images.
        epochs: Epochs of a parent.
        learners: Learners in a pool.
        learner_rate: Their learning rate; the authors' is 1e-5, with twenty times as
            many images, and so steps, as a run on two cores has.
        label_noise: Share of the labels, but for the test's, that are wrong.
        chain: Whether to draw a second pool, in which each learner goes on from the
            one before, as the authors' code does.
    """

    data: str
    net: str
    seed: int
    train_size: int | None
    size: int
    epochs: int
    learners: int
    learner_rate: float
    label_noise: float
    chain: bool


def main():
    arguments = parse()
    results = read(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        path = find_data(arguments.data, Path(folder))
        for setting in settings(arguments):
            key = asdict(setting)
            if any(key == done["key"] for done in results["runs"]):
                continue
            print(f"\n{key}", flush=True)
            results["runs"].append({"key": key, **run(path, setting)})
            results["statement"] = statement(results["runs"]).splitlines()
            write(arguments.out, results)
            print(table(results), flush=True)
    print(table(results))
    print(statement(results["runs"]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data",
        default="cifar10",
        help="an .npz, or cifar10 or cifar100, which Keras downloads",
    )
    parser.add_argument(
        "--nets", nargs="+", default=["resnet20", "cifar10cnn"], choices=nets.NETS
    )
    parser.add_argument(
        "--chain",
        nargs="*",
        default=["cifar10cnn"],
        choices=nets.NETS,
        help="nets that get a pool of learners which go on from one another, too",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-size", type=int, default=2500, help="0 for all")
    parser.add_argument("--size", type=int, default=16, help="side of the images")
    parser.add_argument("--epochs", type=int, default=20, help="of a parent")
    parser.add_argument("--learners", type=int, default=12)
    parser.add_argument("--learner-rate", type=float, default=1e-5)
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def settings(arguments):
    return [
        Setting(
            data=Path(arguments.data).stem,
            net=net,
            seed=seed,
            train_size=arguments.train_size or None,
            size=arguments.size,
            epochs=arguments.epochs,
            learners=arguments.learners,
            learner_rate=arguments.learner_rate,
            label_noise=arguments.label_noise,
            chain=net in arguments.chain,
        )
        for seed in range(arguments.seeds)
        for net in arguments.nets
    ]


def find_data(name, folder):
    """Return the path of an `.npz`; write it, for a data set that Keras knows."""
    if name not in ("cifar10", "cifar100"):
        return name
    parts = getattr(keras.datasets, name).load_data()
    (x_train, y_train), (x_test, y_test) = parts
    path = folder / f"{name}.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def run(path, setting):
    """Train, choose and score for one net and seed; return rows and seconds."""
    train, choose, test = data.load(
        path,
        train_size=setting.train_size,
        seed=setting.seed,
        size=setting.size,
        label_noise=setting.label_noise,
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        controls = kmn.LearnerPool(folder / "controls")
        parent, seconds = train_controls(setting, train, controls)
        rows = score_controls(parent, controls, train, test)
        for arm in ("copies", "chain") if setting.chain else ("copies",):
            pool = kmn.LearnerPool(folder / arm)
            seconds[arm] = clock(lambda pool=pool: draw(setting, parent, pool, train))
            int8 = pool.quantize(train[0][:500], verbose=0)
            rows += score_pool(arm, int8, choose, test, setting.seed)
    return {"seconds": seconds, "rows": rows}


def train_controls(setting, train, pool):
    """Fill a pool with parents and the tuned parent; return the parent, and seconds."""
    n_classes = int(train[1].max()) + 1
    seconds = {}

    def new(seed):
        keras.utils.set_random_seed(seed)
        model = nets.NETS[setting.net](train[0].shape[1:], n_classes)
        took = fit(model, train, setting.epochs, PARENT_RATE, seed)
        return model, took

    parent, seconds["parent"] = new(setting.seed)
    pool.add(parent, name="parent")
    epochs = LEARNER_EPOCHS * setting.learners
    tuned = pool["parent"].load()
    seconds["tuned"] = clock(lambda: tune(tuned, train, epochs, setting))
    pool.add(tuned, name="tuned", from_logits=True)
    longer = pool["parent"].load()
    seconds["longer"] = fit(longer, train, epochs, PARENT_RATE, setting.seed + 200)
    pool.add(longer, name="longer", from_logits=True)
    for i in range(1, N_MEMBERS):
        other, seconds[f"parent {i}"] = new(1000 * (setting.seed + 1) + i)
        pool.add(other, name=f"parent-{i}")
    return parent, seconds


def tune(model, train, epochs, setting):
    """Train as the learners are trained, but for the pruning and the draws."""
    keras.utils.set_random_seed(setting.seed + 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(setting.learner_rate), loss)
    model.fit(*train, batch_size=32, epochs=epochs, verbose=0)


def draw(setting, parent, pool, train):
    train_prune2edge(
        parent,
        pool,
        *train,
        n_learners=setting.learners,
        epochs=LEARNER_EPOCHS,
        learning_rate=setting.learner_rate,
        sequential=pool.path.name == "chain",
        seed=setting.seed,
        verbose=0,
    )


def score_controls(parent, controls, train, test):
    int8 = controls.quantize(train[0][:500], verbose=0)
    predictions = int8.predict(test[0], verbose=0)
    answers = {x.name: p for x, p in zip(int8, predictions, strict=True)}
    parents = ["parent", *(f"parent-{i}" for i in range(1, N_MEMBERS))]

    def int8_row(name, members):
        files = [int8[member].path.read_bytes() for member in members]
        return ensemble_row(
            name, "controls", [answers[m] for m in members], files, test
        )

    return [
        row("parent, float32", *float_file(parent), test, pool="controls", members=1),
        int8_row("parent, int8", ["parent"]),
        int8_row("parent tuned like learners", ["tuned"]),
        int8_row("parent trained on", ["longer"]),
        int8_row(f"deep ensemble of {N_MEMBERS}", parents),
    ]


def score_pool(arm, int8, choose, test, seed):
    """Choose from a pool of int8 learners in every way, and score the choices."""
    held_out = int8.predict(choose[0], verbose=0)
    answers = int8.predict(test[0], verbose=0)
    files = [learner.path.read_bytes() for learner in int8]

    def ensemble(name, indices):
        chosen = [files[i] for i in indices]
        return ensemble_row(name, arm, answers[list(indices)], chosen, test)

    def mean(name, choices):
        name = f"{name} (mean of {len(choices)})"
        return mean_row(name, [ensemble(name, c) for c in choices]) | {"pool": arm}

    everyone = range(len(files))
    rows = [mean("one learner", [[i] for i in everyone])]
    for name, chosen in choices(held_out, choose[1], seed):
        rows.append(ensemble(name, chosen.indices))
    draws = [
        selection.random_k(held_out, choose[1], N_MEMBERS, random_state=i).indices
        for i in range(20)
    ]
    rows.append(mean(f"{N_MEMBERS} at random", draws))
    rows.append(ensemble("all learners", everyone) | about(int8, answers, test[1]))
    return rows


def about(pool, answers, y):
    return {
        "settings": [learner.metrics for learner in pool],
        "sparsities": [float(learner.sparsity) for learner in pool],
        "accuracies": [float(selection.accuracy(p, y)) for p in answers],
    }


def choices(probabilities, y, seed):
    """Yield a name and a `Selection` for each way of choosing."""
    k_means = KMeans(N_MEMBERS, n_init=10)
    n_classes = probabilities.shape[-1]
    clusterers = {
        "label vectors": make_pipeline(label_vectors(n_classes), k_means),
        "probabilities": k_means,
    }
    for features, clusterer in clusterers.items():
        for strategy, representative in STRATEGIES.items():
            yield (
                f"{strategy}, {features}",
                selection.cluster(
                    probabilities,
                    y,
                    None,
                    clusterer=clusterer,
                    representative=representative,
                    random_state=seed,
                ),
            )
    yield f"top {N_MEMBERS}", selection.top_k(probabilities, y, N_MEMBERS)


def label_vectors(n_classes):
    """Return a transformer from a learner's probabilities to the labels it predicts.

    The authors' features: the labels' numbers, as if class 9 were far from class 0.
    """
    return FunctionTransformer(_predicted_labels, kw_args={"n_classes": n_classes})


def _predicted_labels(flat, *, n_classes):
    return flat.reshape(len(flat), -1, n_classes).argmax(-1).astype("float64")


def ensemble_row(name, pool, predictions, files, test):
    predictions = np.asarray(predictions)
    return row(
        name,
        predictions.mean(axis=0),
        files,
        test,
        pool=pool,
        members=len(files),
        disagreement=mean_disagreement(predictions),
    )


if __name__ == "__main__":
    main()
