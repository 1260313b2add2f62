"""DeepFM in plain NumPy and double precision, to compare the torch module with."""

import numpy as np

from trainer.scorer import Scorer


def parts_of(some: Scorer) -> dict[str, np.ndarray]:
    """Copies of the dense weights by name."""
    parts, at = {}, 0
    for name, shape in some.shapes:
        size = int(np.prod(shape))
        parts[name] = some.weights[at : at + size].reshape(shape).astype(np.float64)
        at += size
    return parts


def deepfm(parts: dict[str, np.ndarray], fields: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Logits, one example after another."""
    layers = [name.removesuffix(".weight") for name in parts if name.startswith("network") and name.endswith("weight")]
    out = []
    for rows, extra in zip(fields.astype(np.float64), numbers.astype(np.float64), strict=True):
        pairs = sum(float(rows[i, 1:] @ rows[j, 1:]) for i in range(len(rows)) for j in range(i))
        x = np.concatenate([rows[:, 1:].ravel(), extra])
        for layer in layers[:-1]:
            x = np.maximum(parts[f"{layer}.weight"] @ x + parts[f"{layer}.bias"], 0.0)
        logits = parts[f"{layers[-1]}.weight"] @ x + parts["bias"] + rows[:, 0].sum() + pairs
        out.append(logits + parts["numeric.weight"] @ extra if "numeric.weight" in parts else logits)
    return np.array(out)
