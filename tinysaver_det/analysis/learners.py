"""What a gate can be learned with: estimators of scikit-learn, and how they become plain arrays.

Each learns from (R, F) columns either (R,) numbers or, for K options of the base, (R, K), and predicts as many.
"""

import numpy as np

from ..confidence.learned import Linear, tamed
from ..confidence.trees import Trees
from .peers.gate import scikit_learn

BAGS = 4


def trees(columns, gained, seed):
    """Extremely randomised trees (Geurts et al. 2006); those for several options share their splits."""
    ensemble = scikit_learn('ensemble')
    return _Forest.of(ensemble.ExtraTreesRegressor(
        100, min_samples_leaf=10, max_features=0.4, max_leaf_nodes=300, random_state=seed, n_jobs=-1), columns, gained)


def boosting(columns, gained, seed):
    """Gradient-boosted trees on histograms, the mean of several, each on other columns and another part of the rows.

    Those for several options are fitted one by one.
    """
    if gained.ndim == 2:
        own = np.eye(gained.shape[1])
        return Trees.joined([(boosting(columns, g, seed), own[k]) for k, g in enumerate(gained.T)])
    ensemble = scikit_learn('ensemble')
    rng, models = np.random.default_rng(seed), []
    for k in range(BAGS):
        part = rng.random(len(gained)) < 0.7
        if part.sum() < 2:
            part[:] = True
        models.append(ensemble.HistGradientBoostingRegressor(
            max_iter=100, learning_rate=0.06, max_leaf_nodes=10, min_samples_leaf=min(30, max(1, part.sum() // 20)),
            l2_regularization=10, max_features=0.3, early_stopping=False, random_state=seed + k)
            .fit(columns[part], gained[part]))
    return _Forest.of_histograms(models)


def ridge(columns, gained, seed):
    """Ridge regression on columns with tamed tails, its strength chosen by leave-one-out."""
    linear_model = scikit_learn('linear_model')
    rows = tamed(columns)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    fitted = linear_model.RidgeCV(np.logspace(0, 5, 11)).fit((rows - mean) / scale, gained)
    return Linear(mean, scale, fitted.coef_.T, fitted.intercept_)


LEARNERS = dict(trees=trees, boosting=boosting, ridge=ridge)


def stored(model) -> dict:
    """The model as a gate holds it."""
    return dict(trees=model.to_dict()) if isinstance(model, Trees) else dict(linear=model.to_dict())


def fit_neck(features, residual, fold):
    """Ridge regressions of what the boxes leave unexplained on the features of the saver's neck.

    Args:
        features: (I, F). Images with values that are not finite are left out, and get 0.
        residual: (I, K) gains of each option.
        fold: (I,) of the cross-validation.

    Returns:
        tuple: ``mean`` (F,) and ``coefficients`` (F,), or (F, K) of several options, as lists in a dict, fitted on all
        images, and (I, K) what each image gets from a fit on the other folds.
    """
    linear_model = scikit_learn('linear_model')
    there = np.isfinite(features).all(axis=1)

    def fit(images):
        rows = features[images].astype(np.float64)
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(scale > 1e-9, scale, np.inf)
        found = []
        for wanted in residual[images].T:  # each option of its own strength
            unit = max(float(wanted.std()), 1e-12)
            ridge = linear_model.RidgeCV(np.logspace(2, 7, 11)).fit((rows - mean) / scale, wanted / unit)
            found.append(ridge.coef_ / scale * unit)
        return mean, np.stack(found, axis=1)

    held_out = np.zeros(residual.shape)
    for k in np.unique(fold):
        if not (there & (fold != k)).any():
            continue
        mean, coefficients = fit(there & (fold != k))
        part = there & (fold == k)
        held_out[part] = (features[part] - mean) @ coefficients
    mean, coefficients = fit(there)
    plain = coefficients if coefficients.shape[1] > 1 else coefficients[:, 0]
    return dict(mean=mean.tolist(), coefficients=plain.tolist()), held_out


class _Forest:
    """Trees of scikit-learn, child behind parent and siblings side by side."""

    @staticmethod
    def of(estimator, columns, gained) -> Trees:
        """From an ensemble whose prediction is the mean of its trees."""
        estimator.fit(columns, gained)
        parts = []
        for one in estimator.estimators_:
            t = one.tree_
            parts.append((t.feature, t.threshold, t.children_left, t.children_right, t.children_left < 0,
                          t.value[:, :, 0].reshape(-1, *gained.shape[1:]) / len(estimator.estimators_)))
        return _packed(parts)

    @staticmethod
    def of_histograms(models) -> Trees:
        """From several boosted ensembles, whose mean is taken."""
        parts = []
        for model in models:
            base = float(np.ravel(model._baseline_prediction)[0])
            count = len(model._predictors)
            for (one,) in model._predictors:
                n = one.nodes
                leaf = n['is_leaf'].astype(bool)
                parts.append((n['feature_idx'], n['num_threshold'], n['left'], n['right'], leaf,
                              (n['value'] + base / count) / len(models)))
        return _packed(parts)


def _packed(parts) -> Trees:
    arrays, roots, offset = [], [], 0
    for feature, threshold, left, right, leaf, value in parts:
        new = np.empty(len(leaf), np.int64)  # breadth first, so that siblings are neighbours
        order, queue = [0], [0]
        while queue:
            queue = [c for n in queue if not leaf[n] for c in (int(left[n]), int(right[n]))]
            order += queue
        new[order] = np.arange(len(order))
        order = np.array(order)
        end = leaf[order]
        own = np.arange(len(order))
        arrays.append((np.where(end, 0, feature[order]), np.where(end, np.inf, threshold[order]),
                       np.where(end, own, new[np.where(end, 0, left[order])]) + offset,
                       np.where(end.reshape(-1, *[1] * (value.ndim - 1)), value[order], 0)))
        roots.append(offset)
        offset += len(order)
    return Trees(*(np.concatenate(a) for a in zip(*arrays)), roots)
