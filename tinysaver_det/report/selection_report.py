"""A ranking of savers, printed and saved."""

import json
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from ..files import whole_file
from .console import console


def selection_table(selection) -> Table:
    """A rich table, the best saver first.

    Args:
        selection (Selection): What :func:`tinysaver_det.analysis.selection.select_savers` found.
    """
    table = Table(title=f'savers for {escape(selection.base)} ({selection.base_gflops:g} {selection.unit}, '
                        f'{selection.metric} {selection.base_value:.3f}): {selection.images} images, '
                        f'{selection.confidence}', title_justify='left')
    table.add_column('saver', no_wrap=True)
    share = f'{selection.certainty:.0%}'
    for head in (selection.unit, selection.metric, 'F1 with base', 'c', 'R', 'R, first stop', 'delta-C', share, 'first',
                 'rank ' + share, f'saved at {selection.drop * 100:g}', share):
        table.add_column(head, justify='right', no_wrap=True)
    for s in selection.savers:
        table.add_row(escape(s.name), f'{s.gflops:g}', f'{s.value:.3f}', f'{s.agreement:.3f}', f'{s.cost_ratio:.3f}',
                      f'{s.exit_rate:.2f}', f'{s.first_exit_rate:.2f}', f'{s.delta_c:+.3f}',
                      '{:+.2f} to {:+.2f}'.format(*s.delta_c_interval), f'{s.first:.0%}',
                      '{} to {}'.format(*s.rank_interval), f'{s.saved:.0%}',
                      '{:.0%} to {:.0%}'.format(*s.saved_interval))
    return table


def print_selection(selection) -> None:
    """Print the ranking and what it says."""
    out = console()
    out.print(selection_table(selection))
    by = 'delta-C, the lowest first'
    if selection.criterion == 'saved':
        by = (f'{selection.unit} saved, since no saver matches the base on any share of these images (R = 0), so that '
              'delta-C only tells which is cheapest')
    worth = [s.name for s in selection.savers if s.delta_c < 0]
    texts = [f'Ranked by {by}.',
             f'Worth having by delta-C = c - R < 0: {", ".join(worth) or "none"} (R: largest share of images that the '
             'saver answers no worse than the base, the most confident first; TinySaver, arXiv 2403.17726). "first": '
             f'share of {selection.resamples} resamples of the images in which it ranks first. Saved: best share of '
             f"the base's {selection.unit} at a loss of {selection.drop * 100:g} points, from the exact curve. F1 with "
             "base: of its boxes with the base's, at the scores where it is highest.",
             *selection.skipped]
    for text in texts:
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def save_selection(selection, path) -> None:
    """Write the ranking as JSON; the file is whole or absent."""
    with whole_file(path) as f:
        json.dump(asdict(selection), f, indent=2, allow_nan=False)
        f.write('\n')
