"""Run a cascade over many images on Ray: what ``tools/ray_infer.py`` does."""

import contextlib
import copy
import glob
import json
import logging
import math
import os
import os.path as osp
import socket
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ..checks import check_least
from ..command import uninterrupted
from ..errors import ConfigError, DataError, ImageError, TinySaverError
from ..files import read_json, whole_file, whole_folder
from ..image_files import image_files
from ..models.packed import load_detector
from ..report import SaverSummary
from ..report.cascade_cost import cascade_cost
from .hooks.saver_summary_hook import summarise
from .record_loader import why_unread

STORE = 512 * 2**20  # bytes of Ray's object store on one machine: it holds paths and boxes, no images
BLOCK = 16  # batches in a block at most: what is lost with a worker, and a file of the output
TRIED = 16  # images among which one is sought to try the detector on


def ray_infer(cfg: Config, images: str, out: str, checkpoint: Optional[str] = None, ann: Optional[str] = None,
              savers: int = 1, bases: int = 1, saver_batch: int = 16, base_batch: int = 8, saver_gpus: float = 0,
              base_gpus: float = 0, cpus_per_saver: float = 1, cpus_per_base: float = 1, address: Optional[str] = None,
              classes: Optional[Sequence[str]] = None, threshold: Optional[float] = None,
              quiet: bool = False) -> SaverSummary:
    """Detect in a folder of images, the saver and the base in two pools of workers.

    Savers write the images that exit and give the others on; bases answer those in batches of their own. An image is
    batched with others of its input's shape alone, so that its answer is that of batch size 1.

    Writes the folder ``out``, which is whole or absent: ``answers/*.parquet`` with a row for each image, in no order
    (columns: see :data:`~tinysaver_det.engine.answer_table.ANSWERS`), and ``summary.json`` with ``classes`` (that the
    labels stand for), ``images``, ``unreadable`` and ``totals`` (a :class:`~tinysaver_det.report.SaverSummary` of those
    that were read).

    Args:
        cfg: Config of a TinySaverDetector; it stays as it is.
        images: Folder of the images.
        out: Folder for the output: not there yet, or empty. All machines must see both folders, and the checkpoints.
        checkpoint: A packed checkpoint of both stages.
        ann: A COCO file that names the images (paths within the folder) and their ids; by default all that are in the
            folder, numbered from 0 in the order of their paths.
        savers, bases: Workers of each kind.
        saver_batch, base_batch: Images per run of each.
        saver_gpus, base_gpus: GPUs, or the share of one, for each worker; 0 runs on the CPU.
        cpus_per_saver, cpus_per_base: CPUs for each worker.
        address: Of a Ray cluster; by default RAY_ADDRESS, else this machine.
        classes: The classes to detect, in place of all.
        threshold: In place of the config's.
        quiet: No progress.

    Returns:
        SaverSummary: The totals.

    Raises:
        ImageError: Nothing could be read. An image among others that cannot be read is a row with ``error``.
        DataError: No images, or the output has not each of them once.
        ConfigError, CheckpointError, ClassesError: What of the rest doesn't fit.
    """
    for name, value, least in (('savers', savers, 1), ('bases', bases, 1), ('saver-batch', saver_batch, 1),
                               ('base-batch', base_batch, 1), ('saver-gpus', saver_gpus, 0),
                               ('base-gpus', base_gpus, 0)):
        check_least(f'--{name}', value, least)
    for name, value in (('cpus-per-saver', cpus_per_saver), ('cpus-per-base', cpus_per_base)):
        if not value > 0:
            raise ConfigError(f'--{name} must be above 0, but got {value}')
    _require_ray()
    cfg = copy.deepcopy(cfg)
    model = cfg.get('model') or {}
    if classes is not None:
        model['target_classes'] = tuple(classes)
    if threshold is not None:
        model['threshold'] = threshold
    model.update(keep_stages=False, record_features=False)  # which the output has no columns for
    with whole_folder(out) as folder:
        found = _images(images, ann, skip=[out, folder])
        detector = _tried_detector(cfg, checkpoint, found)
        answers = osp.join(folder, 'answers')
        os.mkdir(answers)
        kwargs = dict(cfg=cfg, checkpoint=checkpoint, folder=answers, here=os.getcwd())
        pools = [_Pool(savers, saver_batch, saver_gpus, cpus_per_saver), _Pool(bases, base_batch, base_gpus,
                                                                                cpus_per_base)]
        with _cluster(address, pools):
            _run(found, pools, kwargs, quiet)
        totals, unreadable = _checked_totals(answers, found, detector)
        with whole_file(osp.join(folder, 'summary.json')) as f:
            json.dump(dict(classes=detector.target_classes, images=len(found['path']), unreadable=len(unreadable),
                           totals=totals.to_dict()), f, indent=2)
    totals.print()
    for name, reason in unreadable[:10]:
        print(f'unreadable: {name}: {reason}')
    if unreadable:
        print(f'{len(unreadable)} of {len(found["path"])} images could not be read: their rows have the reason as '
              'error')
    print(f'written to {out}')
    return totals


class _Pool:
    """Workers of one kind, and what each takes."""

    def __init__(self, size, batch, gpus, cpus):
        self.size, self.batch, self.gpus, self.cpus = size, batch, gpus, cpus

    def block(self, images, turns):
        """Images that a worker takes at once: whole batches, and so many turns for each worker if all images come."""
        return self.batch * min(BLOCK, max(1, math.ceil(images / (turns * self.size * self.batch))))

    def kwargs(self):
        """Of a PartWorker."""
        return dict(device='cuda:0' if self.gpus else 'cpu', threads=max(1, int(self.cpus)), batch_size=self.batch)

    def options(self, ray):
        """Of map_batches."""
        return dict(compute=ray.data.ActorPoolStrategy(size=self.size), num_cpus=self.cpus, num_gpus=self.gpus or None,
                    batch_format='pyarrow')


def _require_ray():
    # Its makers' statistics are not sent, and what its C++ tells of workers that died is not shown.
    for name, value in (('RAY_USAGE_STATS_ENABLED', '0'), ('RAY_BACKEND_LOG_LEVEL', 'fatal')):
        os.environ.setdefault(name, value)
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as e:
        raise ConfigError(f'inference in bulk needs Ray Data ({e}): pip install "tinysaver-det[ray]"') from e


def _images(folder, ann, skip):
    """Columns ``file``, ``image_id`` and ``path`` of all images."""
    if ann is None:
        paths = image_files(folder, skip=skip)
        files, ids = [osp.relpath(p, folder) for p in paths], list(range(len(paths)))
    else:
        if not osp.isdir(folder):
            raise DataError(f'{folder} is not a folder of images')
        content = read_json(ann, 'annotation file', DataError)
        if isinstance(content, dict) and content.get('images') == []:
            raise DataError(f"annotation file {ann} lists no images under 'images'")
        try:
            files, ids = zip(*((i['file_name'], i['id']) for i in content['images']))
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"annotation file {ann} must list images with 'file_name' and 'id' under 'images'") from e
        if not all(isinstance(i, int) for i in ids) or len(set(ids)) != len(ids):
            raise DataError(f'the ids of the images of {ann} must be whole numbers that differ from each other')
    return dict(file=list(files), image_id=list(ids), path=[osp.abspath(osp.join(folder, f)) for f in files])


def _tried_detector(cfg, checkpoint, images):
    """The whole detector, which has seen one image: what doesn't fit is told before any worker starts."""
    detector = load_detector(cfg, checkpoint, 'cpu')
    for name, stage in detector.stages.items():
        if not stage.loaded:
            raise ConfigError(f'{name} has no checkpoint, so each worker would have other random weights: name it with '
                              f'--cfg-options model.{name}.checkpoint=FILE')
    for path, image_id in list(zip(images['path'], images['image_id']))[:TRIED]:
        try:
            read = detector.stages['saver'].pipeline.read(path, image_id)
        except Exception as e:
            why_unread(e)  # raises what is of the settings
            continue
        with torch.no_grad():
            detector.test_step(pseudo_collate([read]))
            detector.base_gflops_alone(path)  # whose operators without a formula are named in the end
        break
    return detector


@contextlib.contextmanager
def _cluster(address, pools):
    """Inside, Ray runs: one that runs already, a cluster's, or one on this machine."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get('RAY_ADDRESS') or 'local'
    _require_reachable(address)
    local = dict(include_dashboard=False, object_store_memory=STORE) if address == 'local' else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        if local:
            there = ray.cluster_resources()
            for kind, short, wanted in (('CPU', 'cpu', sum(p.size * p.cpus for p in pools)),
                                        ('GPU', 'gpu', sum(p.size * p.gpus for p in pools))):
                if wanted > there.get(kind, 0):
                    raise ConfigError(
                        f'the savers and bases want {wanted:g} {kind}s together, but there are {there.get(kind, 0):g}: '
                        'lower --savers, --bases, ' + ('--cpus-per-saver or --cpus-per-base' if short == 'cpu' else
                                                       '--saver-gpus or --base-gpus'))
        yield
    except ConnectionError as e:
        raise ConfigError(f'the Ray cluster {address} cannot be reached: {" ".join(str(e).split())}') from e
    finally:
        with uninterrupted():
            ray.shutdown()


def _require_reachable(address):
    """Refuse a HOST:PORT that nothing listens at: Ray would wait for minutes and then end the process in silence."""
    host, _, port = address.rpartition(':')
    if not host or '://' in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=10).close()
    except (OSError, OverflowError) as e:
        raise ConfigError(f'the Ray cluster {address} cannot be reached: {e}') from e


def _run(images, pools, kwargs, quiet):
    """Let the workers write the answers.

    What exits is written by the saver itself, so that what is left between the pools waits for the base: its batches
    are full, no image goes through the saver twice, and the kept ones' boxes don't travel.
    """
    import pyarrow as pa
    import ray
    from rich.console import Console

    from .part_workers import BaseWorker, SaverWorker

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = not quiet and Console(stderr=True).is_terminal
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)  # errors are raised
    saver, base = pools
    table = pa.table(images, schema=pa.schema([('file', pa.string()), ('image_id', pa.int64()), ('path', pa.string())]))
    count = len(table)
    block = saver.block(count, turns=4)
    with ray.data.DataContext.current(context):
        data = ray.data.from_arrow([table.slice(i, block) for i in range(0, count, block)])
        data = data.map_batches(SaverWorker, fn_constructor_kwargs=dict(kwargs, **saver.kwargs()), batch_size=block,
                                **saver.options(ray))
        data = data.map_batches(BaseWorker, fn_constructor_kwargs=dict(kwargs, **base.kwargs()),
                                batch_size=base.block(count, turns=16), **base.options(ray))
        try:
            for _ in data.iter_batches(batch_size=None, batch_format='pyarrow'):
                pass
        except ray.exceptions.RayError as e:
            raise _cause(e) from None


def _cause(error):
    """What a worker raised, out of what Ray wraps around it."""
    seen = error
    while seen is not None:
        cause = getattr(seen, 'cause', None)
        if isinstance(cause, TinySaverError):
            cause.args = (str(cause).split('\n')[0],)  # Ray adds lines about its settings to the sentence
            return cause
        seen = cause or seen.__cause__
    return error


def _checked_totals(folder, images, detector):
    """Totals of what the workers wrote, and (file, reason) of what could not be read."""
    import pyarrow.parquet as pq

    for part in glob.glob(osp.join(glob.escape(folder), '.*')):  # of a worker that was killed
        os.unlink(part)
    files = glob.glob(osp.join(glob.escape(folder), '*.parquet'))
    names = ('file', 'image_id', 'width', 'height', 'option', 'confidence', 'gflops', 'saver_gflops', 'dropped_boxes',
             'base_error', 'error')
    rows = pq.read_table(folder, columns=list(names)) if files else None
    ids = np.sort(rows['image_id'].to_numpy()) if files else np.zeros(0, np.int64)
    wanted = np.sort(np.array(images['image_id'], dtype=np.int64))
    if not np.array_equal(ids, wanted):
        twice = len(ids) - len(np.unique(ids))
        raise DataError(f'of {len(wanted)} images {len(np.setdiff1d(wanted, ids))} are missing from the output and '
                        f'{twice} rows are there twice: all machines must write to one shared folder')
    failed = rows['error'].is_valid().to_numpy()
    bad = rows.filter(rows['error'].is_valid())
    unreadable = sorted(zip(bad['file'].to_pylist(), bad['error'].to_pylist()))
    if failed.all():
        raise ImageError(f'none of {len(failed)} images could be read; the first: {unreadable[0][1]}')
    rows = rows.filter(rows['error'].is_null()).sort_by('image_id')
    path = dict(zip(images['image_id'], images['path']))
    size = np.stack([rows['height'].to_numpy(), rows['width'].to_numpy()], 1)
    option, gflops, saver_gflops = (rows[k].to_numpy() for k in ('option', 'gflops', 'saver_gflops'))
    answered = option == len(detector.options)
    known = {tuple(s): g for s, g in zip(size[answered].tolist(), (gflops - saver_gflops)[answered].tolist())}

    def base_alone(size, path):
        return known[size] if size in known else detector.base_gflops_alone(path)

    with torch.no_grad():
        cost = cascade_cost(
            dict(option=option, confidence=rows['confidence'].to_numpy(), gflops=gflops, saver_gflops=saver_gflops,
                 dropped=rows['dropped_boxes'].to_numpy(), size=size,
                 path=[path[i] for i in rows['image_id'].to_pylist()],
                 failed=rows['base_error'].is_valid().to_numpy()),
            len(detector.options), None if detector.base_is_cascade else base_alone)
    return summarise(detector, {f'saver/{k}': v for k, v in cost.items()}), unreadable
