"""tools/record.py as a user calls and kills it."""

import json
import os
import signal
import subprocess
import sys
import time

from mmengine.config import Config

from tinysaver_det.engine.record import record

from ..conftest import ROOT, tiny_cascade


def many(photos, tmp_path, count=40):
    """A config file of a small cascade over the generated photos, each several times."""
    content = json.loads(photos.ann.read_text())
    content['images'] = [dict(content['images'][i % 6], id=i + 1) for i in range(count)]
    ann = tmp_path / 'many.json'
    ann.write_text(json.dumps(content))
    cfg = tiny_cascade(photos)
    cfg['test_dataloader']['dataset']['ann_file'] = str(ann)
    cfg['custom_imports'] = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)
    return Config(cfg)


def test_killed_it_goes_on_to_the_same_files(photos, tmp_path, config):
    cfg = many(photos, tmp_path)
    for name in ('saver', 'base'):
        cfg.model[name].checkpoint = config.model[name].checkpoint
    cfg.dump(str(tmp_path / 'many.py'))
    out = tmp_path / 'killed'
    command = [sys.executable, 'tools/record.py', str(tmp_path / 'many.py'), '--out', str(out), '--shard-size', '3',
               '--workers', '1', '--device', 'cpu', '--quiet']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}

    def done():
        path = out / 'manifest.json'
        return len(json.loads(path.read_text())['shards']) if path.exists() else 0

    for shards in (2, 7):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and done() < shards:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and shards <= done() < 14
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and '40 images recorded; GFLOPs per image: saver ' in ended.stdout, ended.stderr
    record(cfg, str(tmp_path / 'whole'), shard_size=3, workers=0, device='cpu', quiet=True)
    names = sorted(str(p.relative_to(out)) for p in out.rglob('*') if p.is_file() and p.suffix != '.lock')
    assert len(names) == 4 + 14
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name


def test_a_refused_call_ends_with_one_sentence(photos, tmp_path, run_python):
    many(photos, tmp_path).dump(str(tmp_path / 'many.py'))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'base.bbox.json').write_text('')
    done = run_python('tools/record.py', tmp_path / 'many.py', '--out', tmp_path / 'out', '--quiet', '--device', 'cpu',
                      check=False)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert f'error: {tmp_path}/out/base.bbox.json was not recorded by this tool: name another folder' in done.stderr


def test_a_part_that_cannot_be_read(run_python):
    done = run_python('tools/record.py', 'config.py', '--out', 'nowhere', '--shards', 'two', check=False)
    assert done.returncode == 2 and "must be i/n, such as 2/4 for the second of four, but got 'two'" in done.stderr
