"""Record what the stages of a cascade find, so that it can be interrupted: what ``tools/record.py`` does."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..analysis.record_files import ResultsWriter, results_files, save_images, save_record
from ..analysis.record_images import images_of_annotations, images_of_folder
from ..analysis.records import positions
from ..checks import check_least
from ..command import progress_bar
from ..errors import ConfigError, RecordError
from ..models.packed import load_detector, require_cascade
from ..models.speed import check_speed
from ..stage_config import config_digest, read_stage_config, stage_configs
from .record_folder import RecordFolder
from .record_images import images_of_config
from .record_loader import read_batches
from .record_shard import RecordShard, images_of

STAGES = ('both', 'saver', 'base')
SHOWN = 10  # skipped images that are named on the terminal; the manifest names all


def record(cfg: Config, out: str, checkpoint: Optional[str] = None, stages: str = 'both', images: Optional[str] = None,
           classes: Optional[Sequence[str]] = None, shard_size: int = 500, batch_size: Optional[int] = None,
           workers: Optional[int] = None, on_error: str = 'skip', restart: bool = False, part=(1, 1),
           device: Optional[str] = None, quiet: bool = False, annotations: Optional[str] = None) -> bool:
    """Run the saver, all options of the base, or both over images, shard by shard, and write their boxes.

    Killed at any moment, the same call goes on with the first shard that is not done, and ends with the same files to
    the last bit: a batch never has images of two shards, and nothing in a shard depends on those before it.

    Writes, beside ``manifest.json`` and ``shards``, ``saver.bbox.json``, ``base.bbox.json`` and ``option_1.bbox.json``
    and so on, as far as these ran; ``record.json`` where both ran on annotated images; ``images.json``, COCO
    annotations without objects, for a folder. Boxes alone are recorded, no masks.

    Args:
        cfg: Config of a TinySaverDetector; it stays as it is.
        out: Folder to write to.
        checkpoint: A packed checkpoint, in place of the stages' own.
        stages: 'saver', 'base' or 'both'.
        images: A folder of images, in place of the config's test data set.
        classes: The classes to detect in it; the detector's by default.
        shard_size: Images per shard, which is what an interruption may cost.
        batch_size: Images per batch; that of the config's test_dataloader by default.
        workers: Processes that read images ahead; by default the test_dataloader's, else 2.
        on_error: 'skip' leaves images out that cannot be read, and with the detector's ``on_base_error='keep_saver'``
            those on which the base fails; 'stop' ends with the first.
        restart: Throw away what ``out`` has of another recording.
        part: (number from 1, of how many) processes that share the work in one folder, each with every so many-th
            shard; the one that finds all of them done writes the results.
        device: By default a GPU if there is one.
        quiet: No progress.
        annotations: With ``images``: COCO annotations that list those of the folder to record, by their paths in it.

    Returns:
        bool: Whether the results are written; False where other processes have yet to finish their shards.

    Raises:
        RecordError: It cannot go on, or ``out`` was begun for something else.
        TinySaverError: Something of the config, the data or the weights does not fit.
    """
    loader = cfg.get('test_dataloader') or {}
    batch_size = loader.get('batch_size', 1) if batch_size is None else batch_size
    workers = loader.get('num_workers', 2) if workers is None else workers
    for name, value, least in (('--shard-size', shard_size, 1), ('--batch-size', batch_size, 1),
                               ('--workers', workers, 0)):
        check_least(name, value, least)
    if stages not in STAGES:
        raise ConfigError(f'stages must be {", ".join(STAGES)}, but got {stages!r}')
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f'--shards must be i/n with i from 1 to n, but got {part[0]}/{part[1]}')
    if restart and part[1] > 1:
        raise ConfigError('--restart would throw away what the other processes of --shards record: call it once '
                          'without --shards, or name another folder')
    if images is None and classes is not None:
        raise ConfigError('--classes go with --images: a data set has its own, see '
                          'test_dataloader.dataset.metainfo.classes')
    if images is None and annotations is not None:
        raise ConfigError('--ann goes with --images: a data set has its own, see test_dataloader.dataset.ann_file')
    cfg = Config(cfg.to_dict())
    if classes is not None:
        require_cascade(cfg)
        cfg.model.target_classes = tuple(classes)
    detector = load_detector(cfg, checkpoint, device)
    for name, stage in detector.stages.items():
        if not stage.loaded and stages in ('both', name.split('.')[0]):
            print_log(f'{name} has no checkpoint: its weights are random', 'current', logging.WARNING)
    if images is None:
        source = images_of_config(cfg, detector, quiet)
    elif annotations is None:
        source = images_of_folder(images, detector.target_classes, out)
    else:
        source = images_of_annotations(images, annotations, detector.target_classes, [out])
        for note in source.truth.notes:
            print_log(note, 'current', logging.WARNING)
    numbers = [n for n in range(len(detector.options) + 1) if stages in ('both', 'base' if n else 'saver')]
    files = [results_files(len(detector.options))[n] for n in numbers]
    also = ['images.json'] if images is not None and annotations is None else \
        ['record.json'] if stages == 'both' and source.annotated else []
    asked = _asked(cfg, detector, source, numbers, dict(
        stages=stages, shard_size=shard_size, batch_size=batch_size), files + also)
    count = -(-len(source) // shard_size)
    with RecordFolder(out, asked, count, part, restart) as folder:
        if folder.finished():
            print(f'{out} is finished: there is nothing to do')
            return True
        try:
            with _deterministic(), torch.no_grad():
                _record_shards(folder, detector, source, numbers, shard_size, batch_size, workers, on_error, quiet)
            with folder.merging():
                done = folder.done()
                if len(done) < count:
                    print(f'{len(done)} of {count} shards are recorded in {out}; the rest is that of the other '
                          'processes, the last of which writes the results')
                    return False
                if not folder.finished():
                    _write_results(folder, detector, source, numbers, files, also)
        except KeyboardInterrupt:
            print(f'{len(folder.done())} of {count} shards are recorded in {out}: run the same command again to go on',
                  file=sys.stderr)
            raise
        _tell(folder, out)
    return True


def _asked(cfg, detector, source, numbers, settings, writes):
    """What a recording is of; whatever may change a bit of it."""
    device = next(detector.parameters()).device
    weights = detector.weights_checksums()
    names = dict.fromkeys(['saver' if n == 0 else detector.options[n - 1].stage for n in numbers])
    configs = stage_configs(cfg.model)
    cpu = device.type == 'cpu'
    return dict(
        **settings,
        config={n: _digest(configs[n], n, detector.stages[n].classes) for n in names},
        weights={n: weights[n] for n in names},
        classes=source.classes,
        categories=source.category_ids,
        images=source.digest,
        image_count=len(source),
        annotations=None if source.truth is None else source.truth.checksum,
        base_batch_size=detector.base_batch_size,
        on_base_error=detector.on_base_error,
        device=f'cpu ({torch.backends.cpu.get_cpu_capability()})' if cpu else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads() if cpu else None,
        torch=torch.__version__,
        writes=writes)


def _digest(stage, name, classes):
    """SHA-256 of what a stage's config says of its model, input and speed, wherever it says so, and of its classes."""
    cfg = read_stage_config(stage, name)
    content = dict(model=cfg.model, test_pipeline=cfg.test_pipeline, scales=stage.get('scales'),
                   speed=check_speed(stage.get('speed'), name), classes=classes)
    return config_digest(Config(content).to_dict())


@contextlib.contextmanager
def _deterministic():
    """Inside, cuDNN takes the same algorithms each time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _record_shards(folder, detector, source, numbers, shard_size, batch_size, workers, on_error, quiet):
    batches = []  # (shard, the indices of its images)
    missing = folder.missing()
    for number in missing:
        own = range(number * shard_size, min(len(source), (number + 1) * shard_size))
        batches += [(number, own[i:i + batch_size]) for i in range(0, len(own), batch_size)]
    pipelines = [detector.stages['saver'].pipeline if n == 0 else detector.options[n - 1].pipeline for n in numbers]
    inputs = read_batches([[(source.ids[i], source.paths[i]) for i in part] for _, part in batches], pipelines, workers,
                          folder.let_go)
    total = sum(len(range(k * shard_size, min(len(source), (k + 1) * shard_size))) for k in folder.own)
    seen = total - sum(len(part) for _, part in batches)
    shard = None
    with progress_bar('recording', quiet) as progress, contextlib.closing(inputs):
        progress(seen, total)
        for at, ((number, part), read) in enumerate(zip(batches, inputs), 1):
            shard = shard or RecordShard(detector, numbers, on_error == 'stop')
            shard.add([(source.ids[i], source.names[i]) for i in part], read)
            if at == len(batches) or batches[at][0] != number:
                folder.write(number, shard.arrays(), images=len(shard.arrays()['image_ids']), skipped=shard.skipped,
                             uncounted=detector.uncounted_ops)
                shard = None
            seen += len(part)
            progress(seen, total)


def _write_results(folder, detector, source, numbers, files, also):
    """From the shards to the results, a shard at a time."""
    ids, sizes, gflops, dropped = [], [], [], []
    with contextlib.ExitStack() as stack:
        writers = [ResultsWriter(stack.enter_context(folder.writing(f)), source.category_ids) for f in files]
        for arrays in folder.shards():
            for name, found in (('image_ids', ids), ('sizes', sizes), ('gflops', gflops), ('dropped', dropped)):
                found.append(arrays[name])
            for k, writer in enumerate(writers):
                for image in images_of(arrays, k):
                    writer.add(*image)
        if not sum(map(len, ids)):
            first = next(s for said in folder.done().values() for s in said['skipped'])
            raise RecordError(f'none of {len(source)} images could be recorded; the first: {first["file"]}: '
                              f'{first["reason"]}; put that right and run the same command again, which tries all of '
                              'them again')
        for writer in writers:
            writer.close()
    ids, sizes = np.concatenate(ids), np.concatenate(sizes)
    gflops, dropped = np.concatenate(gflops, axis=1), np.concatenate(dropped, axis=1)
    if 'images.json' in also:
        with folder.writing('images.json') as f:
            save_images(f, source, ids, sizes)
    if 'record.json' in also:
        weights = detector.weights_checksums()
        with folder.written_by_others('record.json'):
            save_record(folder.folder, source.truth.take(positions(ids, source.truth.image_ids)[0]), detector.names,
                        gflops, dropped[0], [weights['saver'], *(weights[o.stage] for o in detector.options)],
                        [None, *(o.size for o in detector.options)])
    folder.finish([*files, *also], images=len(ids), gflops={
        f[:-len('.bbox.json')]: float(g.mean()) for f, g in zip(files, gflops)})


def _tell(folder, out):
    found, done = folder.finished(), folder.done()
    skipped = [s for said in done.values() for s in said['skipped']]
    for s in skipped[:SHOWN]:
        print(f'skipped {s["file"]}: {s["reason"]}')
    if len(skipped) > SHOWN:
        print(f'... and {len(skipped) - SHOWN} more; all are in {out}/manifest.json, under "skipped" of their shards')
    if skipped:
        print(f'{len(skipped)} of {found["images"] + len(skipped)} images were skipped: they are in no results file, '
              'and a sweep of the record is without them')
    uncounted = sorted({(s, op) for said in done.values() for s, ops in said['uncounted'].items() for op in ops})
    for stage, op in uncounted:
        print(f'not counted in the GFLOPs of {stage}: {op}')
    costs = ', '.join(f'{name} {gflops:.4g}' for name, gflops in found['gflops'].items())
    print(f'{found["images"]} images recorded; GFLOPs per image: {costs}')
    print('written to ' + ', '.join(f'{out}/{name}' for name in found['files']))
