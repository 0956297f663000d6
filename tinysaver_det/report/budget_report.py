"""A simulated budget, printed and saved."""

import json

import numpy as np
from rich.markup import escape
from rich.table import Table

from ..files import whole_file
from .console import console
from .summary import budgeted, plain


def print_simulation(found) -> None:
    """Print the table of a simulation and what it says.

    Args:
        found (Simulation): What :func:`tinysaver_det.analysis.budget.simulate_budget` found.
    """
    out = console()
    out.print(simulation_table(found))
    for text in sentences(found):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def simulation_table(found) -> Table:
    """A rich table: a row for each order of the images."""
    table = Table(title=escape(f'{found.title}: {found.images} images, {found.confidence}, budget '
                               f'{budgeted(found.budget)}'), title_justify='left')
    table.add_column('order', no_wrap=True)
    for head in ('handed over', 'GFLOPs', 'windows', 'later windows', 'settled after', found.metric.name, 'at rest'):
        table.add_column(head, justify='right')
    for s in found.streams:
        table.add_row(s.order, f'{s.handover:.1%}', f'{s.gflops:.3f}', _range(found, s.lowest, s.highest),
                      _range(found, s.lowest_late, s.highest_late), str(s.settled), f'{s.value:.4f}', f'{s.fixed:.4f}')
    return table


def sentences(found) -> list:
    """Sentences that belong under the table."""
    one, share = found.streams[0], found.budget.get('handover') is not None
    bound = f'{one.bound:.1%}' if share else f'{one.bound:.3g} GFLOPs'
    losses = {}
    for s in found.streams:
        losses.setdefault(s.order, []).append(100 * s.loss)
    return [*(f'{name}: {np.mean(v):.2f} points below the policy at rest, mean of {len(v)} streams ({min(v):.2f} to '
              f'{max(v):.2f}).' for name, v in losses.items() if len(v) > 1),
            f'windows: least and highest mean of {one.window} images in a row; later: of those that begin behind the '
            f"first window, or a window behind the jump. A window's mean is within {bound} of the target in any stream "
            '(but for a cap, and options below the target), and never above a cap.',
            "settled after: so many images, from which on the mean of all so far is within 1% of the dearest option's "
            f'cost of the target. at rest: {found.metric.name} of the same policy at one setting for all images, at '
            'the same mean cost.',
            *found.notes]


def simulation_dict(found) -> dict:
    """What the JSON file holds; a figure that doesn't exist is None."""
    names = ('order', 'seed', 'handover', 'gflops', 'target', 'reached', 'bound', 'cap', 'window', 'lowest', 'highest',
             'lowest_late', 'highest_late', 'settled')
    return plain(dict(
        title=found.title, images=found.images, metric=found.metric.name, confidence=found.confidence,
        budget=found.budget, notes=found.notes,
        streams=[dict({n: getattr(s, n) for n in names}, value=s.value, fixed=s.fixed, loss=s.loss)
                 for s in found.streams]))


def save_simulation(found, path) -> None:
    """Write the simulation as JSON; the file is whole or absent."""
    with whole_file(path) as f:
        json.dump(simulation_dict(found), f, indent=2, allow_nan=False)
        f.write('\n')


def _range(found, least, most):
    if least is None:
        return '-'
    share = found.budget.get('handover') is not None
    return f'{least:.1%} to {most:.1%}' if share else f'{least:.3f} to {most:.3f}'
