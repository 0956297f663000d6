"""What a test of a cascade found, as one object."""

import json
import math
from dataclasses import dataclass, field, fields
from typing import Optional

from ..errors import ConfigError
from ..files import whole_file
from ..routing import is_budget

HEADLINES = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', 'segm_mAP', 'mAP')
COST_KEYS = ('images', 'handover', 'gflops_per_image', 'saver_gflops', 'base_gflops', 'saved')


@dataclass(frozen=True)
class SaverSummary:
    """The result of running a cascade over a data set.

    Attributes:
        images: Images evaluated.
        handover: Share of them that the base answered, in [0, 1].
        gflops_per_image: Mean GFLOPs per image (1 multiply-add = 1), saver and base together.
        saver_gflops, base_gflops: Mean GFLOPs per image of each stage run alone.
        saved: 1 - gflops_per_image / base_gflops; negative when the cascade costs more than the base.
        threshold: Confidence below which an image was handed over; None where a price decided. Where a budget did, it
            is where the stream started, or None.
        confidence: Configuration of the confidence.
        metrics: The data set metrics of the cascade, such as 'coco/bbox_mAP' in [0, 1].
        baselines: The same metrics of 'saver' and 'base' alone, where they were evaluated.
        mean_confidence: Mean confidence over the images.
        dropped_boxes: Boxes that were left out for a NaN or infinity.
        parameters: Number of parameters of 'saver' and 'base'.
        uncounted_ops: Operators that no GFLOPs figure includes, by stage.
        merge: Configuration of what became of handed-over images.
        alignment: Names of the models whose scores were aligned, by stage; None where they were not.
        price: Points of the metric that one GFLOP more per image had to gain; None where a threshold decided.
        options: Of a base with several options each one's ``name``, ``scale`` ((width, height), None without scales),
            ``share`` of the images that it answered, and ``gflops`` (what it cost beside the saver, mean over these).
        base_errors: Images that keep the saver's answer since the base failed on them.
        routing: Configuration of the policy, see :mod:`tinysaver_det.routing`.
    """

    images: int
    handover: float
    gflops_per_image: float
    saver_gflops: float
    base_gflops: float
    saved: float
    threshold: Optional[float]
    confidence: dict
    metrics: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    mean_confidence: Optional[float] = None
    dropped_boxes: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    uncounted_ops: dict[str, list] = field(default_factory=dict)
    merge: Optional[dict] = None
    alignment: Optional[dict] = None
    price: Optional[float] = None
    options: list[dict] = field(default_factory=list)
    base_errors: int = 0
    routing: Optional[dict] = None

    def to_dict(self) -> dict:
        """Plain values for JSON; a figure that doesn't exist is None."""
        return plain({f.name: getattr(self, f.name) for f in fields(self)})

    def save(self, path) -> None:
        """Write as JSON; the file is whole or absent."""
        with whole_file(path) as f:
            json.dump(self.to_dict(), f, indent=2, allow_nan=False)
            f.write('\n')

    def table(self):
        """A rich table: a row for the saver alone, the base alone and the cascade; and for each option of several, with
        its GFLOPs and its share of the images."""
        from rich.table import Table

        shown = [k for k in self.metrics if k.split('/')[-1] in HEADLINES]
        shown = shown or [k for k, v in self.metrics.items() if isinstance(v, (int, float))][:3]
        if self._budget:
            knob = f'budget {budgeted(self._budget)}'
        elif self.price is None:
            knob = f'threshold {self.threshold:.6g}'
        else:
            knob = f'price {self.price:.6g} points per GFLOP'
        table = Table(title=f'{self.images} images, {knob}')
        table.add_column('', no_wrap=not self.options, overflow='fold')
        for head in ('GFLOPs', 'of base', 'handed over', *(_short(k, shown) for k in shown)):
            table.add_column(head, justify='right', no_wrap=True)
        rows = (('saver alone', self.saver_gflops, None, self.baselines.get('saver', {})),
                *((f'to {name}', o['gflops'], o['share'], {}) for name, o in zip(_names(self.options), self.options)),
                ('base alone', self.base_gflops, None, self.baselines.get('base', {})),
                ('cascade', self.gflops_per_image, self.handover, self.metrics))
        for name, gflops, handover, metrics in rows:
            table.add_row(name, _figure(gflops, '.3f'), _figure(gflops / self.base_gflops, '.1%'),
                          _figure(handover, '.1%'), *(_figure(metrics.get(k), '.3f') for k in shown))
        return table

    @property
    def _budget(self):
        return self.routing if is_budget(self.routing) else None

    @property
    def headline(self) -> Optional[str]:
        """The first of the metrics that a table shows, such as 'coco/bbox_mAP'; None without metrics."""
        return next((k for k in self.metrics if k.split('/')[-1] in HEADLINES), None)

    def plot(self, path) -> None:
        """Draw the headline metric against GFLOPs: saver, base and cascade; the file is whole or absent.

        Needs the figures of the stages alone. The dotted line is where a cascade would lie that hands over images at
        random: from the saver to the base's metric at the cost of both.

        Args:
            path: A file whose suffix matplotlib knows (.png, .svg, .pdf).

        Raises:
            ConfigError: The stages alone were not evaluated.
        """
        from matplotlib.figure import Figure

        key = self.headline
        if any(key not in self.baselines.get(s, {}) for s in ('saver', 'base')):
            raise ConfigError('a plot needs the metrics of both stages alone: test with --baselines')
        points = (('saver', self.saver_gflops, self.baselines['saver'][key], '#2e7d32', 's'),
                  ('base', self.base_gflops, self.baselines['base'][key], '#d84315', 'D'),
                  ('cascade', self.gflops_per_image, self.metrics[key], '#1a237e', 'o'))
        figure = Figure(figsize=(6, 3.6), layout='constrained')
        axes = figure.subplots()
        axes.plot([self.saver_gflops, self.saver_gflops + self.base_gflops], [points[0][2], points[1][2]], ':',
                  color='grey', label='handed over at random', zorder=1)
        for name, gflops, value, color, marker in points:
            axes.scatter(gflops, value, s=70, color=color, marker=marker, zorder=2)
            text = f'{name}: {value:.3f} at {gflops:.3g}'
            axes.annotate(text, (gflops, value), (0, 9 if name != 'saver' else -16), textcoords='offset points',
                          ha='left' if name == 'saver' else 'right' if name == 'base' else 'center', color=color)
        axes.axhline(points[1][2], color='#d84315', linewidth=0.6, alpha=0.5, zorder=0)
        axes.set(xlabel='GFLOPs per image (1 multiply-add = 1)', ylabel=_short(key, [key]), xlim=(0, None))
        axes.margins(y=0.2)
        axes.set_title(f'{self.images} images, {self.handover:.1%} handed over, {self.saved:.1%} of the GFLOPs saved',
                       fontsize=10)
        axes.legend(loc='lower right', frameon=False)
        with whole_file(path, 'wb') as f:
            figure.savefig(f, format=str(path).rsplit('.', 1)[-1], dpi=150)

    def print(self, file=None) -> None:
        """Print the table and the notes, to standard output by default."""
        from rich.console import Console

        console = Console(file=file)
        console.print(self.table())
        for note in self.notes():
            console.print(note, markup=False, highlight=False, soft_wrap=True)

    def notes(self) -> list:
        """Sentences that belong under the table."""
        notes = []
        if math.isfinite(self.saved):
            saved = (f'saves {self.saved:.1%} of the GFLOPs of the base alone' if self.saved >= 0 else
                     f'costs {-self.saved:.1%} more GFLOPs than the base alone')
            notes.append(f'The cascade {saved} (1 multiply-add = 1; preprocessing and NMS not counted).')
        if self._budget:
            notes.append(f'Budget: {budgeted(self._budget)} was the target, and {self.handover:.1%} were handed over '
                         f'at {self.gflops_per_image:.3f} GFLOPs per image.')
        notes += [f'{stage}: not in its GFLOPs, for want of a formula: {", ".join(ops)}'
                  for stage, ops in self.uncounted_ops.items()]
        if not math.isfinite(self.base_gflops):
            notes.append('what the base alone would cost is unknown: it is counted on images that are handed over, and '
                         + ('it failed on all' if self.base_errors else 'none was'))
        if self.dropped_boxes:
            notes.append(f'{self.dropped_boxes} boxes were left out because a coordinate or score was not finite')
        if self.base_errors:
            notes.append(f"{self.base_errors} images keep the saver's answer since the base failed on them: the log "
                         'names each with the reason')
        return notes


def budgeted(budget):
    """A budget's target and cap, in words."""
    share = budget.get('handover') is not None
    target, cap = budget['handover' if share else 'gflops'], budget.get('cap')
    shown = [f'{v:.1%}' if share else f'{v:.4g}' for v in (target, cap) if v is not None]
    most = '' if cap is None else f' (at most {shown[1]} in any {budget["window"]} images)'
    return f'{shown[0]} {"handed over" if share else "GFLOPs per image"}{most}'


def _names(options):
    """The options' names, or what tells them apart where one model has several scales."""
    names = [o['name'] for o in options]
    models = {n.rpartition(' ')[0] for n in names}
    return names if len(models) > 1 or None in [o['scale'] for o in options] else [n.rpartition(' ')[2] for n in names]


def _short(key, shown):
    """A metric's name without what all shown names share."""
    name = key.split('/')[-1]
    return name[len('bbox_'):] if all(k.split('/')[-1].startswith('bbox_') for k in shown) else name


def _figure(value, form):
    return '-' if value is None or not math.isfinite(value) else format(value, form)


def plain(value):
    """Numpy and other values as JSON has them: lists, dicts with text keys, None for what is not finite."""
    if hasattr(value, 'tolist'):  # numpy's arrays and numbers
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
