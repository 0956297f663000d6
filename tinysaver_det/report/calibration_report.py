"""What calibration found, printed."""

from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from .console import console

ROWS = 16


def print_calibration(pair, calibration) -> None:
    """Print the thresholds that were looked at around the chosen one, and what is promised.

    Args:
        pair (Pair): Saver and base.
        calibration (Calibration): What was found.
    """
    out = console()
    out.print(calibration_table(pair, calibration))
    for text in calibration_sentences(pair, calibration):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def calibration_table(pair, calibration) -> Table:
    """A rich table of thresholds; the chosen one is marked."""
    from ..analysis.calibration import TARGETS

    curve, (kind, value) = calibration.curve, calibration.target
    ltt = calibration.method == 'ltt'
    table = Table(title=f'{escape(pair.title)}: {len(pair.truth)} calibration images; {TARGETS[kind]}: {value:g}',
                  title_justify='left')
    heads = [curve.knob, 'handed over', 'GFLOPs', 'saved', curve.metric.name, 'drop']
    if ltt:
        heads += ['image loss', 'p-value']
    else:
        limited = dict(max_drop='drop', max_gflops='GFLOPs', min_saved='saved', handover='handed over')[kind]
        heads.append(f'{limited} at {"least" if kind == "min_saved" else "most"} ({calibration.certainty:.0%})')
    for head in ('', *heads):
        table.add_column(head, justify='right', no_wrap=True)
    shown = set(np.linspace(0, len(curve) - 1, ROWS).round().astype(int).tolist())
    if calibration.chosen is not None:
        shown |= {p for p in range(calibration.chosen - 2, calibration.chosen + 3) if 0 <= p < len(curve)}
    for p in sorted(shown):
        bound = calibration.bound[p] * (-1 if kind == 'min_saved' else 1)
        extra = [f'{calibration.quantity[p]:.4f}', f'{bound:.3g}'] if ltt else [
            f'{bound:.1%}' if kind in ('min_saved', 'handover') else f'{bound:.4f}']
        chosen = p == calibration.chosen
        table.add_row('->' if chosen else '', f'{curve.thresholds[p]:.4g}', f'{curve.handover[p]:.1%}',
                      f'{curve.gflops[p]:.4g}', f'{curve.saved[p]:.1%}', f'{curve.value[p]:.4f}',
                      f'{curve.drop[p]:.4f}', *extra, style='bold' if chosen else None)
    return table


def calibration_sentences(pair, calibration) -> list:
    """Sentences that belong under the table."""
    from ..analysis.risk_control import LOSS

    found, point = [], calibration.point
    name, certainty = calibration.curve.metric.name, calibration.certainty
    if point is not None:
        knob = calibration.curve.knob
        value = point.policy[knob]
    if point is not None and calibration.method == 'ltt':
        found.append(f'With probability {certainty:g} over the draw of the calibration images, the loss per image is '
                     f'at most {calibration.target[1]:g} at {knob} {value:.4g} on images drawn alike '
                     f'({LOSS}). It is no promise about mAP.')
    elif point is not None:
        where = 'in the long run' if point.for_images is None else f'on {point.for_images:g} other images like these'
        interval = point.expected.get('interval')
        between = '' if interval is None else (f'; its drop of {name} lies between {interval[0]:.4f} and '
                                               f'{interval[1]:.4f} (each end with certainty {certainty:g})')
        found.append(f'At {knob} {value:.4g} the target is met {where} with certainty {certainty:g}, by '
                     f'{point.calibration["resamples"]} resamples of the images{between}.')
    if point is not None and point.calibration['leak']:
        found.append('Calibrated on images of the test, or that the gate was fitted on: figures on them are too good '
                     '(--allow-leak).')
    if point is not None and calibration.fitted_here:
        found.append('How large unsure boxes are to be in the input was found on these very images; the certainty does '
                     'not count this choice of a single number (--check-coverage does).')
    return found + pair.notes()


def coverage_table(found: Sequence[tuple]) -> Table:
    """A rich table of how often promises held.

    Args:
        found: (title, Coverage) each.
    """
    table = Table(title='calibrated on a random half, tested on the other', title_justify='left')
    for head in ('pair', 'target'):
        table.add_column(head)
    for head in ('promised', 'met', 'splits', 'threshold found', 'mean on the other half', 'mean saved'):
        table.add_column(head, justify='right')
    for title, c in found:
        table.add_row(escape(title), f'{c.target[0]} {c.target[1]:g}', f'{c.certainty:.0%}', f'{c.share:.1%}',
                      str(c.splits), str(c.found), f'{c.quantity:.4f}', f'{c.saved:.1%}')
    return table
