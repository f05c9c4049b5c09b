"""Fit scikit-learn's MLPClassifier epoch by epoch, in the manner of its example "Varying regularization in MLP".

Reads $XAR_DATA (the training table), $XAR_BUDGET (seconds) and $XAR_SEED. Writes out/checkpoint.pickle and
out/metrics.jsonl.
"""

import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from table import read_table

EPOCHS_PER_SECOND = 0.125  # of the budget
HIDDEN_UNITS = 64
LEARNING_RATE = 1e-3  # Adam's
BATCH_SIZE = 64
L2_PENALTY = 1e-4


def new_classifier(seed: int) -> MLPClassifier:
    """One hidden layer of rectified linear units."""
    return MLPClassifier(
        hidden_layer_sizes=(HIDDEN_UNITS,),
        alpha=L2_PENALTY,
        batch_size=BATCH_SIZE,
        learning_rate_init=LEARNING_RATE,
        random_state=seed,
    )


def train(classifier: MLPClassifier, rows: np.ndarray, labels: np.ndarray, n_epochs: int, metrics_path: Path) -> None:
    """Pass over the table ``n_epochs`` times, each in a new order that the seed decides.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    classes = np.unique(labels)
    with metrics_path.open("w", encoding="utf-8") as metrics:
        for epoch in range(n_epochs):
            classifier.partial_fit(rows, labels, classes=classes)
            loss = log_loss(labels, classifier.predict_proba(rows))
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} in epoch {epoch}")
            print(json.dumps({"step": epoch + 1, "loss": loss, "lr": LEARNING_RATE}), file=metrics, flush=True)


def main() -> None:
    """One training run, the same bits for the same seed."""
    rows, labels = read_table(Path(os.environ["XAR_DATA"]))
    scaler = StandardScaler().fit(rows)
    classifier = new_classifier(int(os.environ["XAR_SEED"]))
    n_epochs = max(1, round(EPOCHS_PER_SECOND * float(os.environ["XAR_BUDGET"])))
    out = Path("out")
    out.mkdir(exist_ok=True)
    train(classifier, scaler.transform(rows), labels, n_epochs, out / "metrics.jsonl")
    with (out / "checkpoint.pickle").open("wb") as file:
        pickle.dump((scaler, classifier), file)


if __name__ == "__main__":
    main()
