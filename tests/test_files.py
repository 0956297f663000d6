import os

import pytest

from tinysaver_det.files import whole_file


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
