"""What a sweep over recorded results found: printed, saved, plotted, and as a page."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
from rich.markup import escape

from ..detections import Detections
from ..errors import ImageError
from ..files import whole_file
from .console import console
from .summary import plain

COLORS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#999999', '#000000')
LISTED = 201  # points whose classes' AP a page has
SHOWN = 12  # pictures in a gallery


@dataclass(frozen=True)
class Static:
    """Another model that could be used instead of a cascade.

    Attributes:
        name (str): Of the model.
        gflops (float): Mean GFLOPs per image.
        value (float): Its metric.
    """

    name: str
    gflops: float
    value: float


@dataclass(frozen=True)
class GroupRow:
    """A cascade that looks for some classes only.

    Attributes:
        name (str): Of the group.
        images (float): Share of the images that hold one.
        saver, base (float): The metric of each alone on these classes.
        saved (dict): Share of the base's GFLOPs saved at each drop.
        statics (list[dict]): ``name``, ``loses`` (in the metric) and ``saves`` (share) of the other models.
    """

    name: str
    images: float
    saver: float
    base: float
    saved: dict
    statics: list


@dataclass(frozen=True, eq=False)
class SweepReport:
    """The result of :func:`tinysaver_det.analysis.sweep`.

    Attributes:
        title, saver, base (str): Names of the pair and its models.
        classes (tuple[str, ...]): The target classes. objects (numpy.ndarray): (C,) how many of each there are.
        images (int): Evaluated.
        curves (list[OperatingCurve]): One per confidence; the first has COCO's twelve metrics.
        confidences (dict): Configuration of each by name.
        oracle (OperatingCurve): Images handed over by what each alone would gain.
        random (RandomBand): Images handed over at random.
        statics (list[Static]): Other models.
        groups (list[GroupRow]): By class group, if asked for.
        notes (list[str]): Sentences about the data.
        point (OperatingPoint | None): The one that was applied.
        merge (dict): What becomes of an image that is handed over.
        alignment (dict | None): Names of the models whose scores are aligned.
        options (list[Static]): Those of the base, alone on all images, where there are several.
        fitted_here (bool): Whether the first curve's confidence or policy has a number that was found on these images.
        policies (dict): Configuration of the policy of each curve that has more to say than a threshold.
    """

    title: str
    saver: str
    base: str
    classes: tuple
    objects: np.ndarray
    images: int
    curves: list
    confidences: dict
    oracle: object
    random: object
    statics: list = field(default_factory=list)
    groups: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    point: Optional[object] = None
    merge: dict = field(default_factory=lambda: dict(type='replace'))
    alignment: Optional[dict] = None
    options: list = field(default_factory=list)
    policies: dict = field(default_factory=dict)
    fitted_here: bool = False

    @property
    def single_models(self) -> list:
        """(gflops, value) corners of the line between the models that are used alone; none for a base of one option."""
        from ..analysis.curve import hull

        first = self.curves[0]
        return hull([(first.saver_gflops, first.saver), *((o.gflops, o.value) for o in self.options)]) \
            if self.options else []

    @property
    def saved_by_single_models(self) -> dict:
        """The share of the base's GFLOPs that this line saves, by drop."""
        from ..analysis.policies import saved_on_line

        first = self.curves[0]
        return saved_on_line([first.saver_gflops, *(o.gflops for o in self.options)],
                             [first.saver, *(o.value for o in self.options)])

    @property
    def setting(self) -> Optional[float]:
        """The threshold or price of the operating point; None without one."""
        return None if self.point is None else self.point.setting

    @property
    def metric(self) -> str:
        """Name of the chosen metric."""
        return self.curves[0].metric.name

    def to_dict(self) -> dict:
        """What ``summary.json`` holds; a figure that doesn't exist is None."""
        first = self.curves[0]
        result = dict(
            title=self.title, images=self.images, classes=list(self.classes), metric=self.metric,
            scores=first.metric.scores and list(first.metric.scores),
            saver=self._stage(self.saver, first.figures.mean[0], first.saver, first.saver_gflops),
            base=self._stage(self.base, first.base_figures.mean[0], first.base, first.base_gflops),
            merge=self.merge, alignment=self.alignment,
            confidences={c.name: dict(config=self.confidences[c.name], points=len(c), retention=c.retention(),
                                      saved_at_drop=c.saved_at_drop(), area_above_statics=self._area(c))
                         for c in self.curves},
            oracle=dict(retention=self.oracle.retention(), saved_at_drop=self.oracle.saved_at_drop()),
            random=dict(seeds=self.random.seeds, retention=self._random_retention()),
            statics=[dict(s.__dict__) for s in self.statics], groups=[dict(g.__dict__) for g in self.groups],
            notes=self.notes)
        if self.options:
            result.update(options=[dict(o.__dict__) for o in self.options], policies=self.policies,
                          static_line=dict(saved_at_drop=self.saved_by_single_models))
        if self.point is not None:
            result['operating_point'] = self.at(self.setting)
        return plain(result)

    def at(self, setting: float) -> dict:
        """Figures of the first confidence at a threshold or price: exactly those of the routing that it gives."""
        curve = self.curves[0]
        p = curve.point_at(setting)
        more = {} if curve.shares is None else dict(shares=curve.shares[p].tolist())
        return dict(**{curve.knob: setting}, **more, handover=float(curve.handover[p]), gflops=float(curve.gflops[p]),
                    saved=float(curve.saved[p]), value=float(curve.value[p]), drop=float(curve.drop[p]))

    def _stage(self, name, figures, value, gflops):
        from ..analysis.evaluator import METRICS

        return dict(name=name, gflops=gflops, **dict(zip(METRICS, figures.tolist())),
                    **({self.metric: value} if self.curves[0].metric.is_f1 else {}))

    def _area(self, curve):
        return curve.area_above([(s.name, s.gflops, s.value) for s in self.statics])

    def _random_retention(self):
        from ..analysis.curve import HANDOVERS

        gain = self.curves[0].base - self.random.value[0]
        if not gain:
            return None
        return {str(h): float((np.interp(h, self.random.handover, self.random.value) - self.random.value[0]) / gain)
                for h in HANDOVERS}

    def table(self):
        """A rich table: retention and GFLOPs saved of each confidence, of random handover and of the oracle."""
        from rich.table import Table

        first = self.curves[0]
        title = (f'{self.title}: {self.images} images, {len(self.classes)} classes; saver {_value(first.saver)} '
                 f'{self.metric} at {first.saver_gflops:.3g} GFLOPs, base {_value(first.base)} at '
                 f'{first.base_gflops:.3g}')
        table = Table(title=escape(title), title_justify='left')
        table.add_column('confidence')
        drops = list(first.saved_at_drop())
        for head in ('retention', 'at 20%', *(f'saved at {float(d) * 100:g}' for d in drops)):
            table.add_column(head, justify='right', no_wrap=True)
        if self.options:
            table.add_row('between single models', '-', '-',
                          *(f'{v:.0%}' for v in self.saved_by_single_models.values()))
        random = self._random_retention()
        if random:
            mean = np.mean(list(random.values()))
            table.add_row('random', f'{mean:.3f}', f'{random["0.2"]:.3f}', *['-'] * len(drops))
        for curve in [*self.curves, self.oracle]:
            kept = curve.retention()
            table.add_row(curve.name, *('-' if kept[k] is None else f'{kept[k]:.3f}' for k in ('mean', '0.2')),
                          *(f'{v:.0%}' for v in curve.saved_at_drop().values()))
        return table

    def option_table(self):
        """A rich table of what answers how many images where half a point, one or two are lost; None for one option."""
        from rich.table import Table

        if not self.options:
            return None
        first, drops = self.curves[0], (0.005, 0.01, 0.02)
        at = [first.cheapest(d) if first.drop.min() <= d else None for d in drops]
        table = Table(title=f'who answers ({escape(first.name)}, {_policy(self.policies[first.name])})',
                      title_justify='left')
        table.add_column('option')
        for head in ('GFLOPs', self.metric, *(f'share at {d * 100:g}' for d in drops)):
            table.add_column(head, justify='right')
        models = [Static(self.saver, first.saver_gflops, first.saver), *self.options]
        for k, model in enumerate(models):
            table.add_row(escape(model.name), f'{model.gflops:.3g}', _value(model.value),
                          *('-' if p is None else f'{first.shares[p, k]:.0%}' for p in at),
                          end_section=k == len(models) - 1)
        table.add_row(first.knob, '', '', *('-' if p is None else f'{first.thresholds[p]:.4g}' for p in at))
        return table

    def static_table(self):
        """A rich table: what using another model alone loses and saves; None without any."""
        from rich.table import Table

        if not self.statics:
            return None
        first = self.curves[0]
        table = Table(title='instead of a cascade', title_justify='left')
        table.add_column('model')
        for head in ('GFLOPs', self.metric, 'loses', 'saves', 'a cascade at that loss saves'):
            table.add_column(head, justify='right')
        for s in self.statics:
            loss = first.base - s.value
            table.add_row(escape(s.name), f'{s.gflops:.3g}', _value(s.value), _points(loss),
                          f'{1 - s.gflops / first.base_gflops:.0%}',
                          f'{first.saved_at_drop([max(loss, 0)]).popitem()[1]:.0%}')
        return table

    def group_table(self):
        """A rich table by class group; None where none were asked for."""
        from rich.table import Table

        if not self.groups:
            return None
        table = Table(title=f'by class group ({self.curves[0].name})', title_justify='left')
        table.add_column('classes')
        for head in ('images with it', 'saver', 'base', 'saved at ' + ' / '.join(
                f'{float(d) * 100:g}' for d in self.groups[0].saved), *(
                f'{escape(s["name"])} alone: loses / saves' for s in self.groups[0].statics)):
            table.add_column(head, justify='right')
        for g in self.groups:
            table.add_row(escape(g.name), f'{g.images:.0%}', _value(g.saver), _value(g.base),
                          ' / '.join(f'{v:.0%}' for v in g.saved.values()),
                          *(f'{_points(s["loses"])} / {s["saves"]:.0%}' for s in g.statics))
        return table

    def print(self) -> None:
        """Print the tables and the notes to standard output."""
        out = console()
        for table in (self.table(), self.option_table(), self.static_table(), self.group_table()):
            if table is not None:
                out.print(table)
        for text in self.sentences():
            out.print(text, markup=False, highlight=False, soft_wrap=True)

    def sentences(self) -> list:
        """Sentences that belong under the tables."""
        first, found = self.curves[0], []
        if self.point is not None:
            at = self.at(self.setting)
            found.append(f'At the operating point ({first.knob} {self.setting:.4g}) {at["handover"]:.1%} are handed '
                         f'over, {at["saved"]:.1%} of the GFLOPs saved, and {at["drop"] * 100:.2f} points of '
                         f'{self.metric} lost.')
        scores = first.metric.scores
        if scores:
            fused = f', {scores[1]:.3g} (handed over)' if len(scores) > 2 else ''
            found.append(f'{self.metric} at IoU 0.5 of boxes from score {scores[0]:.3g} (saver){fused} and '
                         f'{scores[-1]:.3g} (base).')
        if self.options:
            found.append('Two-way: to the base alone, which is the most costly option. Random: as many images to each '
                         'option as by the first confidence, but random ones. Between single models: each used alone, '
                         'or two of them on random images.')
            if self.fitted_here:
                found.append('How large unsure boxes are to be in the input was found on these very images; it is a '
                             'single number.')
        spent = "budgets of 10% to 90% of the base's GFLOPs" if self.options else 'handovers of 10% to 90%'
        found.append(f'Retention: share of the gain from saver to base that is kept, mean over {spent}, and at 20%. '
                     'Saved: best share of the base\'s GFLOPs (1 multiply-add = 1) at a loss of so '
                     'many points, on these images; calibrate for a promise about others. The greedy oracle knows '
                     'what each image alone would gain.')
        return found + list(self.notes)

    def plot(self, path) -> None:
        """Draw the metric against GFLOPs; the file is whole or absent.

        Args:
            path: A file whose suffix matplotlib knows (.png, .svg, .pdf).
        """
        from matplotlib.figure import Figure

        first = self.curves[0]
        figure = Figure(figsize=(7.5, 4.6), layout='constrained')
        axes = figure.subplots()
        axes.fill_between(self.random.gflops, self.random.low, self.random.high, color='#bbbbbb', alpha=0.5,
                          linewidth=0)
        axes.plot(self.random.gflops, self.random.value, ':', color='#777777',
                  label=f'random ({self.random.seeds} orders)')
        axes.plot(self.oracle.gflops, self.oracle.value, '--', color='#777777', linewidth=1, label='greedy oracle')
        for k, curve in reversed(list(enumerate(self.curves))):
            axes.plot(curve.gflops, curve.value, color=COLORS[k % len(COLORS)], label=_plainly(curve.name),
                      linewidth=2 if k == 0 else 1, zorder=3 if k == 0 else 2)
        if self.options:
            axes.plot(*zip(*self.single_models), color='black', linewidth=0.8, dashes=(3, 3),
                      label='between single models')
        for s in (*self.options[:-1], *self.statics):
            axes.scatter(s.gflops, s.value, color='black', marker='x', s=36, zorder=4)
            axes.annotate(_plainly(s.name), (s.gflops, s.value), (5, -3), textcoords='offset points', fontsize=8)
        for name, x, y, marker, align in ((self.saver, first.saver_gflops, first.saver, 's', 'left'),
                                          (self.base, first.base_gflops, first.base, 'D', 'right')):
            axes.scatter(x, y, color='black', marker=marker, s=40, zorder=5)
            axes.annotate(_plainly(name), (x, y), (7, -12) if align == 'left' else (-7, 7),
                          textcoords='offset points', ha=align, fontsize=8, weight='bold')
        if self.point is not None:
            at = self.at(self.setting)
            axes.scatter(at['gflops'], at['value'], color=COLORS[0], marker='*', s=170, zorder=6, edgecolor='white',
                         label='operating point')
        axes.axhline(first.base, color='black', linewidth=0.5, alpha=0.4, zorder=0)
        axes.axvline(first.base_gflops, color='black', linewidth=0.5, alpha=0.4, zorder=0)
        axes.set(xlabel='GFLOPs per image (1 multiply-add = 1)', ylabel=self.metric)
        axes.margins(y=0.08)
        axes.set_title(f'{self.images} images, {len(self.classes)} classes', fontsize=10)
        axes.legend(loc='lower right', frameon=False, fontsize=8)
        with whole_file(path, 'wb') as f:
            figure.savefig(f, format=str(path).rsplit('.', 1)[-1], dpi=150)

    def save(self, folder, gallery: Optional[dict] = None) -> list:
        """Write ``curve.csv``, ``summary.json``, ``curve.png`` and ``report.html``; each is whole or absent.

        Args:
            folder: Where; made if it is not there.
            gallery: See :meth:`page`.

        Returns:
            list[str]: Their paths.
        """
        from .html import write_page

        paths = [os.path.join(folder, n) for n in ('curve.csv', 'summary.json', 'curve.png', 'report.html')]
        self.curves[0].save(paths[0])
        with whole_file(paths[1]) as f:
            json.dump(self.to_dict(), f, indent=2, allow_nan=False)
            f.write('\n')
        self.plot(paths[2])
        write_page(paths[3], self.page(gallery))
        return paths

    def page(self, gallery: Optional[dict] = None) -> dict:
        """What :func:`tinysaver_det.report.html.write_page` shows.

        Args:
            gallery: Pictures of the 'least' and 'most' confident images, see :func:`gallery`.
        """
        from .. import __version__
        from ..analysis.evaluator import METRICS

        first = self.curves[0]
        listed = np.unique(np.linspace(0, len(first) - 1, LISTED).round().astype(int))
        class_ap = first.figures.class_ap

        def curve(c):
            found = dict(name=c.name, threshold=c.thresholds, handover=c.handover, gflops=c.gflops, value=c.value,
                         retention=c.retention(), saved_at_drop=c.saved_at_drop(), knob=c.knob, shares=c.shares)
            if c.shares is not None:  # a two-way curve has the last option alone
                found['options'] = [self.saver, *(o.name for o in self.options[1 - c.shares.shape[1]:])]
            if c.figures is not None:
                found['metrics'] = dict(zip(METRICS, c.figures.mean.T))
            return found

        few = ', '.join(self.classes[:8]) + (', ...' if len(self.classes) > 8 else '')
        return plain(dict(
            title=self.title, metric=self.metric, images=self.images,
            classes_note=f'{len(self.classes)} classes: {few}',
            saver=dict(name=self.saver, gflops=first.saver_gflops, value=first.saver),
            base=dict(name=self.base, gflops=first.base_gflops, value=first.base,
                      metrics=dict(zip(METRICS, first.base_figures.mean[0]))),
            curves=[curve(c) for c in self.curves],
            random={k: getattr(self.random, k) for k in ('handover', 'gflops', 'value', 'low', 'high')},
            oracle={k: getattr(self.oracle, k) for k in ('handover', 'gflops', 'value')},
            single=dict(zip(('gflops', 'value'), zip(*self.single_models))) if self.options else None,
            statics=[dict(s.__dict__) for s in (*self.options[:-1], *self.statics)],
            class_table=dict(names=self.classes, objects=self.objects, saver=class_ap[0],
                             base=first.base_figures.class_ap[0],
                             points=listed, values=class_ap[listed]),
            operating_point=None if self.point is None else dict(
                threshold=self.setting, **{k: self.at(self.setting)[k] for k in ('handover', 'gflops')},
                text=f'calibrated for {_target(self.point)}'),
            gallery=gallery, groups=[dict(g.__dict__) for g in self.groups] or None, notes=self.sentences(),
            made=f'tinysaver_det {__version__}'))


def gallery(truth, images, detections: Sequence[Detections], confidences, threshold: float) -> tuple:
    """Pictures of the least and the most confident images, with the saver's boxes.

    Args:
        truth (GroundTruth): Names the images and classes.
        images: Folder of the images.
        detections: (I,) the saver's boxes.
        confidences: (I,).
        threshold: Below it the base answers.

    Returns:
        tuple: ``{"least": [...], "most": [...]}`` for :meth:`SweepReport.page`, and a list of sentences about images
        that could not be read.
    """
    from .html import thumbnail

    order, found, unread = np.argsort(confidences, kind='stable'), {}, {}
    for name, ranked in (('least', order), ('most', order[::-1])):
        found[name] = []
        for i in ranked:
            boxes = detections[i]
            shown = boxes.scores >= 0.3
            try:
                picture = thumbnail(os.path.join(images, truth.file_names[i]), boxes.bboxes[shown], [
                    truth.classes[k] for k in boxes.labels[shown]], boxes.scores[shown])
            except ImageError as e:
                unread[i] = str(e)
                continue
            found[name].append(dict(src=picture, name=truth.file_names[i], confidence=float(confidences[i]),
                                    stage='base' if confidences[i] < threshold else 'saver'))
            if len(found[name]) == SHOWN:
                break
    notes = []
    if unread:
        notes.append(f'{len(unread)} images of the galleries could not be read, such as: {next(iter(unread.values()))}')
    return found, notes


def _policy(config):
    """A policy in a few words."""
    if config['type'] == 'SmallestScale':
        share = config['pixels'] / config['sizes'][-1]
        return f"the smallest scale that shows unsure boxes as large as the base shows {share:.1%} of an image's side"
    return 'the best of gain - price x GFLOPs'


def _target(point):
    (kind, value), = point.target.items()
    return f'{kind} {value:g} with certainty {point.certainty:g}'


def _points(value):
    return '-' if not math.isfinite(value) else f'{value * 100:.1f}'


def _plainly(name):
    return name.replace('$', r'\$')  # no formulas in a plot


def _value(value):
    return '-' if value is None or not math.isfinite(value) else f'{value:.3f}'
