"""What an int8 saver changes, printed."""

import math

from rich.table import Table

from ..report.console import console
from .int8 import Int8Figures

SLOW = 0.95  # of the float32 graph's time: an int8 graph that needs more is not called faster
ROUTES, FOUND, MAP = 0.1, 0.9, 0.01  # from which on a loss is called much


def print_int8(found: Int8Figures) -> None:
    """Print a float32 and an int8 saver side by side, and in sentences what speaks against the latter."""
    table = Table(title=f'saver on {found.images} calibration images of {found.source}')
    table.add_column('')
    for name in ('float32', f'int8 ({found.method})'):
        table.add_column(name, justify='right')
    setting = ['set by the budget' if s is None else f'{s:.4g}' for s in found.settings]
    rows = [('graph, MB', *(f'{s / 1e6:.2f}' for s in found.sizes)),
            ('ms per image', *(f'{1000 * s:.2f}' for s in found.seconds)),
            (found.knob, *setting),
            ('images handed over', *(f'{s:.1%}' for s in found.shares)),
            ('images routed otherwise', '', f'{found.changed:.1%}'),
            ('boxes with a score of 0.3 and more', str(found.boxes),
             f'{found.found:.1%} found again' if found.boxes else '-'),
            ('their mean IoU', '', '-' if math.isnan(found.iou) else f'{found.iou:.3f}')]
    if found.saver is not None:
        rows += [('mAP, saver alone', *(f'{v:.4f}' for v in found.saver)),
                 ('mAP, cascade', *(f'{v:.4f}' for v in found.cascade))]
    for row in rows:
        table.add_row(*row)
    console().print(table)
    threads = f'{found.threads} thread' + 's' * (found.threads != 1)
    print(f'timed one image at a time with {threads}, both graphs in turn, without reading images and choosing boxes')
    print('differences from torch above are those of the float32 graph, of which the int8 one was made')
    for sentence in sentences(found):
        print(sentence)


def sentences(found: Int8Figures) -> list:
    """What a user has to know of an int8 saver, in sentences."""
    said, (before, after) = list(found.notes), found.seconds
    if found.calibrated is not None:
        said.append(f'the operating point was calibrated anew for the int8 saver on these {found.images} images: a '
                    'test on them is refused, and the figures above are no test')
    elif found.kept:
        said.append(f'the {found.knob} was kept: it was chosen for the float32 saver')
    elif found.settings[0] is not None:
        shares = f'({found.shares[1]:.1%} of these images are handed over, before {found.shares[0]:.1%})'
        old, new = found.settings
        said.append(f'the {found.knob} of {old:.4g} could stay {shares}' if old == new else
                    f'the {found.knob} was set from {old:.4g} to {new:.4g} {shares}')
    if after > SLOW * before:
        said.append(f'int8 is not faster on this machine: {1000 * after:.2f} ms for {1000 * before:.2f} ms '
                    f'({after / before:.2f} times the time); measure where it is to run, or stay with float32')
    if found.method == 'dynamic':
        said.append('a dynamic int8 graph rounds weights by tensor and looks for ranges on every run: a static one is '
                    'faster and nearer to float32 wherever both were measured')
    if not found.boxes:
        said.append('the float32 saver shows no box on these images, so nothing tells what int8 does to its answers, '
                    'and its ranges may not fit other images: give images like those that it will see')
    lost = []
    if found.changed > ROUTES:
        lost.append(f'{found.changed:.0%} of the images are routed otherwise')
    if found.boxes and found.found < FOUND:
        lost.append(f'{1 - found.found:.0%} of the boxes are lost')
    if found.saver is not None and found.saver[0] - found.saver[1] > MAP:
        lost.append(f'{100 * (found.saver[0] - found.saver[1]):.1f} points of mAP of the saver are lost')
    if lost:
        said.append(f'int8 changes much: {", ".join(lost)}; give more images like those that it will see '
                    '(--calibration-count), or stay with float32')
    return said
