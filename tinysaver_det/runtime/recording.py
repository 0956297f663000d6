"""Record what the stages of an exported cascade find, as ``tools/record.py`` does of a config."""

import json
import os
from dataclasses import replace

import numpy as np

from ..analysis.record_files import ResultsWriter, results_files, save_images, save_record
from ..analysis.record_images import RecordImages
from ..analysis.records import GroundTruth, coco_boxes, positions, read_ground_truth
from ..command import progress_bar
from ..errors import ImageError
from ..files import read_json, whole_folder
from ..pictures import Picture, name_skipped, refuse_none_read
from .images import read_image

ANNOTATIONS = 'annotations.json'


def record_options(cascade, images: RecordImages, out: str, batch_size: int, source: str, quiet: bool = False) -> None:
    """Run the saver and all options of the base on images, and write their boxes.

    Writes ``saver.bbox.json``, ``base.bbox.json``, and ``option_1.bbox.json`` and so on; of annotated images
    ``record.json``, which ``tools/calibrate.py --record`` reads, and ``annotations.json`` where the given ones have
    other classes, or in another order, than the cascade; else ``images.json``, COCO annotations without objects. The
    folder is whole or absent.

    Args:
        cascade: The :class:`~tinysaver_det.runtime.Cascade`.
        images: They; one that cannot be read, or no input of an option be made of, is left out, named and counted.
        out: Folder to write to: not there yet, or empty.
        batch_size: Images per batch.
        source: What messages call the images.
        quiet: No progress.

    Raises:
        ImageError: None can be read.
        ConfigError: There is something in ``out``, or the options are not in the order of their cost.
        BundleError: A graph failed.
    """
    numbers = range(len(cascade.options))
    files = results_files(len(numbers) - 1)
    ids, sizes, dropped, skipped = [], [], [], []
    with whole_folder(out) as part:
        found = [open(os.path.join(part, name), 'w', encoding='utf-8') for name in files]  # noqa: SIM115
        try:
            writers = [ResultsWriter(f, images.category_ids) for f in found]
            with progress_bar('recording', quiet) as progress:
                for start in range(0, len(images), batch_size):
                    usable = []
                    for i in range(start, min(len(images), start + batch_size)):
                        try:
                            array = read_image(images.paths[i])
                            cascade.check_size(array.shape, f'image {images.paths[i]}')
                            usable.append((images.ids[i], array))
                        except ImageError as e:
                            skipped.append((Picture(images.names[i], None), str(e)))
                    for number, writer in zip(numbers, writers) if usable else ():
                        for (image_id, _), one in zip(usable, cascade.run_option(number, [a for _, a in usable])):
                            writer.add(image_id, coco_boxes(one.bboxes), one.scores, one.labels)
                            if number == 0:
                                dropped.append(one.dropped)
                    ids += [image_id for image_id, _ in usable]
                    sizes += [array.shape[:2] for _, array in usable]
                    progress(len(ids) + len(skipped), len(images))
            if not ids:
                refuse_none_read(source, skipped)
            for writer in writers:
                writer.close()
        finally:
            for f in found:
                f.close()
        gflops = np.array([[cascade.gflops_alone(n, size) for size in sizes] for n in numbers], np.float64)
        files += _describe(cascade, images, part, out, np.array(ids), np.array(sizes), gflops, np.array(dropped))
    for line in name_skipped(skipped, len(images), len(skipped)):
        print(line)
    for note in () if images.truth is None else images.truth.notes:
        print(note)
    costs = ', '.join(f'{name} {g:.4g}' for name, g in zip(cascade.names, gflops.mean(axis=1)))
    print(f'{len(ids)} images recorded; GFLOPs per image: {costs}')
    print('written to ' + ', '.join(os.path.join(out, name) for name in files))


def _describe(cascade, images, part, out, ids, sizes, gflops, dropped):
    """Write what belongs to the results; gives the files' names."""
    if not images.annotated:
        with open(os.path.join(part, 'images.json'), 'w', encoding='utf-8') as f:
            save_images(f, images, ids, sizes)
        return ['images.json']
    truth, also = _own_annotations(images, part, out)
    weights = [cascade.bundle.stages[o.stage].weights for o in cascade.options]
    save_record(part, truth.take(positions(ids, truth.image_ids)[0]), cascade.names, gflops, dropped, weights,
                [None, *(o.size for o in cascade.options[1:])])
    return [*also, 'record.json']


def _own_annotations(images, part, out):
    """The annotations for the cascade's classes, which a record names by their file: the given one, or another, since
    an operating point is for all of the classes in their order."""
    given = images.truth
    same = read_ground_truth(given.path)
    if tuple(c for c in same.classes if c in given.classes) == given.classes:
        return given, []
    path = os.path.join(part, ANNOTATIONS)
    content = read_json(given.path, 'annotation file', ImageError)
    kept = set(given.category_ids.tolist())
    content['categories'] = [dict(id=i, name=c) for i, c in zip(given.category_ids.tolist(), given.classes)]
    content['annotations'] = [a for a in content.get('annotations') or [] if a['category_id'] in kept]
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(content, f)
    truth: GroundTruth = read_ground_truth(path)
    return replace(truth, path=os.path.join(os.path.abspath(out), ANNOTATIONS)), [ANNOTATIONS]
