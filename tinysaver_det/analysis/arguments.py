"""The options that the scripts about recorded results have in common."""

from typing import Optional

from ..errors import ConfigError
from ..merging import build_merge, read_alignment
from ..names import parse_call
from ..routing import answers_of
from .cascade import read_cascade
from .pair import Pair, read_pair, read_record, split_gflops, split_name
from .records import read_ground_truth


def add_pair_arguments(parser, several: Optional[bool] = False) -> None:
    """Add the options that name a saver and a base.

    Args:
        parser (argparse.ArgumentParser): Gets them.
        several: Whether more than one confidence may be named; None: none at all.
    """
    add_data_arguments(parser)
    parser.add_argument('--saver', metavar='[NAME=]FILE', help="the saver's results, as COCO json")
    parser.add_argument('--base', action='append', metavar='[NAME=]FILE[:GFLOPS]',
                        help="the base's results; given again, each with its GFLOPs, for a base of several options, "
                             'such as several scales')
    parser.add_argument('--saver-gflops', type=float, metavar='A', help='GFLOPs of the saver alone (1 multiply-add = '
                                                                        '1)')
    parser.add_argument('--base-gflops', type=float, metavar='B', help='GFLOPs of the base alone')
    parser.add_argument('--saver-features', metavar='FILE.npz', help="pooled features of the saver's neck, for a "
                                                                     'confidence that needs them')
    parser.add_argument('--record', metavar='DIR', help='what tools/test.py --sweep or tools/record.py recorded, in '
                                                        'place of these; --ann only where the annotations have moved')
    if several is None:
        return
    parser.add_argument('--side', type=float, metavar='SHARE',
                        help="with several options and a confidence that tells no gains: the side, as a share of the "
                             "image's longer side, that makes an unsure box large enough for the last option; a "
                             'smaller option wants as many pixels (default: found on these images)')
    parser.add_argument('--confidence', metavar='NAME', nargs='+' if several else None,
                        help='how sure the saver is, such as BoxEntropy, "TopKMean(k=3)" or the folder of a gate that '
                             'tools/fit_gate.py made (default: BoxEntropy for f1, ClassWeightedEntropy for others)'
                        + (', or several, or all; the tables and files are about the first' if several else ''))


def add_data_arguments(parser) -> None:
    """Add the options about annotations, classes and metric."""
    parser.add_argument('--ann', metavar='GT.json', help='COCO annotation file of the images')
    parser.add_argument('--classes', metavar='bus,car', help='target classes (default: all of the annotation file)')
    parser.add_argument('--metric', help='mAP (default), mAP_50, mAP_75, f1, f1_macro, or an F1 at a score: f1@0.3')
    parser.add_argument('--weights-ann', metavar='FILE', help='annotations of other images, whose objects per class '
                                                              'weigh '
                        "ClassWeightedEntropy (default: the saver's scores)")
    parser.add_argument('--subset', action='store_true',
                        help='the results may cover more images than the annotations; those are left out')
    parser.add_argument('--quiet', action='store_true', help='no progress')


def add_merge_arguments(parser) -> None:
    """Add the options about what becomes of both models' answers."""
    parser.add_argument('--merge', metavar='NAME',
                        help='what becomes of an image that is handed over: replace (default), fuse, fuse with '
                             'settings such as "fuse(method=\'wbf\', saver_weight=0.1)", or a .json file of '
                             'tools/align_scores.py --fuse')
    parser.add_argument('--alignment', metavar='FILE.json', help="align both models' scores by this file of "
                                                                 'tools/align_scores.py')


def merge_as_asked(pair: Pair, args, point=None) -> Pair:
    """The pair with the answers that the options, or else the operating point, ask for.

    Raises:
        ConfigError: Settings that cannot be used, or an alignment of other models.
        OperatingPointError: The options ask for others than the point.
    """
    alignment, merge = read_alignment(args.alignment), args.merge
    if len(pair.options) > 2 and (alignment is not None or merge not in (None, 'replace')):
        raise ConfigError('--merge and --alignment go with a base of one option, but there are '
                          f'{len(pair.options) - 1}: leave them out, or name one base')
    if merge is not None:
        merge = build_merge(merge if merge.endswith('.json') else parse_call(merge, 'a merge',
                                                                             'replace or fuse(iou=0.6)'))
    if alignment is not None:
        alignment.check(dict(saver=pair.saver.name, base=pair.base.name))
    if point is not None:
        merge, alignment = answers_of(point, merge, alignment)
    return pair.answering(alignment, merge)


def read_pair_arguments(args, several: bool = True):
    """The pair or cascade that the options name, and the reference annotations or None.

    Args:
        args (argparse.Namespace): The options.
        several: Whether the base may have several options.

    Raises:
        ConfigError: Options that are missing or contradict each other.
    """
    classes = split_classes(args.classes)
    names = ('ann', 'saver', 'base', 'saver_gflops', 'base_gflops')
    bases = [split_gflops(b) for b in args.base or ()]
    for given, (file, _) in zip(args.base or (), bases):
        if not split_name(file)[1] or file.startswith(':'):
            raise ConfigError(f'--base must name a results file, such as NAME=FILE:GFLOPS, but got {given!r}')
    given = [n for n in names if getattr(args, n) is not None]
    if args.record:
        given = [n for n in given if n != 'ann'] + ['saver_features'] * (args.saver_features is not None) \
            + ['subset'] * args.subset
        if given:
            raise ConfigError(f'--record already names the pair: leave out {_options(given)}')
        pair: Pair = read_record(args.record, classes, args.ann)
    else:
        many = len(bases) > 1
        if many and ('base_gflops' in given or any(g is None for _, g in bases)):
            raise ConfigError('several options of a base each need their own GFLOPs: give every --base as '
                              f'NAME=FILE:GFLOPS and leave out --base-gflops, but got {" and ".join(args.base)}')
        if bases and not many and bases[0][1] is not None:
            if 'base_gflops' in given:
                raise ConfigError(f'GFLOPs of the base are given twice, as {args.base[0]} and by --base-gflops '
                                  f'{args.base_gflops:g}: leave out one')
            given.append('base_gflops')
        lacking = [n for n in names if n not in given and not (many and n == 'base_gflops')]
        if lacking:
            raise ConfigError(f'{_options(lacking)} missing: name annotations, results and GFLOPs of both models, or '
                              'a --record')
        if many:
            pair = read_cascade(args.ann, args.saver, bases, args.saver_gflops, classes, args.subset,
                                args.saver_features)
        else:
            (base, cost), = bases
            pair = read_pair(args.ann, args.saver, base, args.saver_gflops, args.base_gflops if cost is None else cost,
                             classes, args.subset, args.saver_features)
    if len(pair.options) > 2 and not several:
        raise ConfigError(f'this is about a base of one option, but {len(pair.options) - 1} are given: name one --base')
    return pair, read_ground_truth(args.weights_ann) if args.weights_ann else None


def split_classes(text):
    """Class names from ``bus,car``; None for None."""
    if text is None:
        return None
    classes = [c.strip() for c in text.split(',') if c.strip()]
    if not classes:
        raise ConfigError(f'--classes must name at least one class, such as bus,car, but got {text!r}')
    return classes


def _options(names):
    return ', '.join('--' + n.replace('_', '-') for n in names)
