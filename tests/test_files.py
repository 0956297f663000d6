import os
import signal

import pytest

from tinysaver_det.command import uninterrupted
from tinysaver_det.errors import ConfigError
from tinysaver_det.files import whole_file, whole_folder


def test_file_appears_whole(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    with whole_file(path) as f:
        f.write('half')
        assert not path.exists()
        f.write(' and half')
    assert path.read_text() == 'half and half'
    assert os.listdir(path.parent) == ['a.txt']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with pytest.raises(error), whole_file(path, 'wb') as f:
        f.write(b'new')
        raise error
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a.bin']


@pytest.mark.parametrize('there', [False, True])
def test_folder_appears_whole(tmp_path, there):
    path = tmp_path / 'new' / 'a'
    if there:
        path.mkdir(parents=True)
    with whole_folder(path) as part:
        with open(os.path.join(part, 'b'), 'w') as f:
            f.write('all')
        assert not path.exists() or not os.listdir(path)
    assert (path / 'b').read_text() == 'all' and os.listdir(path.parent) == ['a']
    assert path.stat().st_mode & 0o777 == tmp_path.joinpath('new').stat().st_mode & 0o777
    with pytest.raises(ConfigError, match='is there already and not empty'), whole_folder(path):
        pass
    with pytest.raises(ConfigError, match='b is there already'), whole_folder(path / 'b'):
        pass
    with pytest.raises(ConfigError, match='cannot be made: '), whole_folder(path / 'b' / 'c'):
        pass


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_error_leaves_no_folder(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / 'a') as part:
        os.mkdir(os.path.join(part, 'sub'))
        raise error
    assert os.listdir(tmp_path) == []


def test_tidying_up_is_not_interrupted():
    done = []
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(True)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
