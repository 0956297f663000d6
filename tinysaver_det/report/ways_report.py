"""A comparison of ways to use several options, printed and saved."""

import json

from rich.markup import escape
from rich.table import Table

from ..files import whole_file
from .console import console
from .summary import plain

SAID = dict(static_line='single models and random mixtures of two', two_way='learned gate, base or not',
            k_way_free='training-free (ResolvedEntropy), any option', k_way='learned gate, any option',
            oracle='greedy oracle, any option')


def print_ways(found) -> None:
    """Print the tables of a comparison and what they say.

    Args:
        found (WayComparison): What :func:`tinysaver_det.analysis.compare_ways.compare_ways` found.
    """
    out = console()
    for table in (ways_table(found), options_table(found)):
        out.print(table)
    for text in sentences(found):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def ways_table(found) -> Table:
    """A rich table: GFLOPs saved at each drop with intervals, and what the learned gate of all options saves more."""
    table = Table(title=escape(f'{found.title}: {found.images} images, {len(found.classes)} classes, {found.folds} '
                               f'folds; GFLOPs saved of {found.options[-1][0]}'), title_justify='left')
    table.add_column('way', no_wrap=True)
    share = f'{found.certainty:.0%}'
    for drop in found.ways[0].saved:
        table.add_column(f'at {float(drop) * 100:g} ({share})', justify='right')
    table.add_column('k_way is above it by', justify='right')
    for w in found.ways:
        ahead = '' if w.ahead is None else ' / '.join(f'{a[0] * 100:+.0f}' for a in w.ahead.values())
        table.add_row(w.name, *('{:.0%} ({:.0%} to {:.0%})'.format(w.saved[d], *w.saved_intervals[d]) for d in w.saved),
                      ahead)
    return table


def options_table(found) -> Table:
    """A rich table: the models alone, and the share of images that each answers by the learned gate at each drop."""
    ours = next(w for w in found.ways if w.name == 'k_way')
    table = Table(title='share of the images that k_way gives to each', title_justify='left')
    table.add_column('option')
    for head in ('GFLOPs', found.metric.name, *(f'at {float(d) * 100:g}' for d in ours.saved)):
        table.add_column(head, justify='right')
    at = [ours.curve.cheapest(float(d)) for d in ours.saved]
    for k, (name, gflops, value) in enumerate(found.options):
        table.add_row(escape(name), f'{gflops:.3g}', f'{value:.3f}', *(f'{ours.curve.shares[p, k]:.0%}' for p in at))
    return table


def sentences(found) -> list:
    """Sentences that belong under the tables."""
    above = {w.name: w.above_line for w in found.ways if w.above_line}
    texts = [f'{name}: {a["mean"] * 100:+.2f} points of {found.metric.name} beside the line between single models, '
             f'mean from the saver to the base in GFLOPs, and at least {a["least"] * 100:+.2f}, at {a["at"]:.3g}.'
             for name, a in above.items() if name in ('two_way', 'k_way_free', 'k_way')]
    return [*(f'{name}: {said}.' for name, said in SAID.items()), *texts,
            "Saved: best share of the base's GFLOPs (1 multiply-add = 1) at a loss of so many points, on these images. "
            f'What is fitted was fitted on {found.folds - 1} of {found.folds} folds and decided about the other. '
            f'Intervals: {found.certainty:.0%}, {found.resamples} resamples of '
            'the images, without fitting again.', *found.notes]


def ways_dict(found) -> dict:
    """What the JSON file holds; a figure that doesn't exist is None."""
    return plain(dict(
        title=found.title, images=found.images, classes=list(found.classes), metric=found.metric.name,
        scores=found.metric.scores and list(found.metric.scores), folds=found.folds, seed=found.seed,
        resamples=found.resamples, certainty=found.certainty,
        options=[dict(name=n, gflops=g, **{found.metric.name: v}) for n, g, v in found.options],
        gates={w.name: dict(
            saved_at_drop=w.saved, saved_interval=w.saved_intervals,
            retention=None if w.curve is None else w.curve.retention(), above_line=w.above_line,
            k_way_is_above_it=w.ahead and {d: a[0] for d, a in w.ahead.items()},
            k_way_is_above_it_interval=w.ahead and {d: a[1:] for d, a in w.ahead.items()}) for w in found.ways},
        notes=found.notes))


def save_ways(found, path) -> None:
    """Write the comparison as JSON; the file is whole or absent."""
    with whole_file(path) as f:
        json.dump(ways_dict(found), f, indent=2, allow_nan=False)
        f.write('\n')
