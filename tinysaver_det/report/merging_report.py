"""What score alignment and fusing give, printed."""

import numpy as np
from rich.markup import escape
from rich.table import Table

HANDOVERS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
DROPS = (0.005, 0.01, 0.02)


def merging_table(title: str, curves: dict) -> Table:
    """A rich table: the metric in per cent at some handovers, and GFLOPs saved at some drops against the base alone.

    Args:
        title: Of the pair.
        curves: What :func:`tinysaver_det.analysis.merging_effect.merging_effect` found.
    """
    first = next(iter(curves.values()))
    table = Table(title=f'{escape(title)}, out of fold: {first.metric.name} by share handed over; the base alone has '
                        f'{first.base * 100:.2f}', title_justify='left')
    table.add_column('answers')
    for head in (*(f'{h:.0%}' for h in HANDOVERS), 'saved at ' + ' / '.join(f'{d * 100:g}' for d in DROPS)):
        table.add_column(head, justify='right', no_wrap=True)
    for name, curve in curves.items():
        table.add_row(name, *(f'{v * 100:.2f}' for v in np.interp(HANDOVERS, curve.handover, curve.value)),
                      ' / '.join(f'{v:.0%}' for v in curve.saved_at_drop(DROPS).values()))
    return table
