"""The commands of docs/making_a_saver.md, from top to bottom, in small."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ..conftest import ROOT
from ..test_readme import MAKING, blocks

IMAGES = 48  # that are labelled and trained on, in place of 4,800
# What makes it small: fewer images and epochs, one engine, one round, one target.
SMALLER = (
    (r'tools/env python', shlex.quote(sys.executable)),
    (r'^SCENES=\S+', 'SCENES="$XDG_CACHE_HOME/tinysaver_det/digits"'),
    (r'^MADE=\S+', 'MADE="$WORK"'),
    (r'\$SCENES/unlabelled/images', '$WORK/some'),
    (r'--epochs (12|4)\b', '--epochs 1'),
    (r'epoch_12\.pth', 'epoch_1.pth'),
    (r'--from-scratch ', ''),  # so short a training from random weights finds nothing at all
    (r'--gflops 0\.012 0\.009', '--gflops 0.012'),
    (r'--train configs/demo/digits_saver_easy\.py', '--train $MADE/distilled/train.py'),
    (r'--rounds 5', '--rounds 1 --num-images 4 --engines onnxruntime'),
    (r'--precisions float32 bfloat16 collage-plus', '--cfg-options train_dataloader.dataset.dataset.indices=48 '
                                                    '--rounds 1 --precisions float32 collage-plus'))


@pytest.mark.slow
def test_every_command_runs_and_leaves_what_the_next_one_takes(tmp_path):
    script = '\n'.join(blocks('bash', MAKING))
    for long, short in SMALLER:
        assert re.search(long, script, re.M), f'{long} is no longer in the page'
        script = re.sub(long, short.replace('\\', r'\\'), script, flags=re.M)
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'WORK': str(tmp_path), 'XDG_CACHE_HOME': cache,
           'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    subprocess.run([sys.executable, 'tools/make_digits.py', 'unlabelled', '--quiet'], cwd=ROOT, env=env, check=True)
    scenes = os.path.join(cache, 'tinysaver_det', 'digits', 'unlabelled', 'images')
    (tmp_path / 'some').mkdir()
    for name in sorted(os.listdir(scenes))[:IMAGES]:
        shutil.copy(os.path.join(scenes, name), tmp_path / 'some')
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
    labels = json.loads((tmp_path / 'distilled' / 'labels.json').read_text())
    assert len(labels['images']) == IMAGES - round(0.16666 * IMAGES)
    for made in ('distilled/train/epoch_1.pth', 'new/saver.bbox.json', 'pruned/0.012/weights.pth', 'pruned/curve.png',
                 'precision/precision.json', 'operating_point.json', 'bundle/cascade.json'):
        assert (tmp_path / made).is_file(), made
    assert 'savers for' in done.stdout and 'mAP' in done.stdout
