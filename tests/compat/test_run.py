def test_a_script_that_imports_mmdet_runs_unchanged(run_python, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text('import sys, mmdet.apis, mmdet.models\n'
                      'print(__name__, sys.argv[1:], sys.path[0])\n')
    done = run_python('-m', 'tinysaver_det.compat.run', script, '--flag', 'x')
    assert done.stdout.splitlines()[-1] == f"__main__ ['--flag', 'x'] {tmp_path}"


def test_a_script_that_is_not_there(run_python):
    done = run_python('-m', 'tinysaver_det.compat.run', 'nowhere.py', check=False)
    assert done.returncode == 1 and done.stderr.strip() == 'nowhere.py is not a file: name the script to run'
