"""Say what the detector would run on, and what is wrong with it.

    python -m tinysaver_det.compat.doctor
"""

import importlib
import importlib.metadata
import importlib.util
import platform
import sys

from .mmcv_ops import status

# Package name on the left, what it is imported as on the right.
UPSTREAM = {'mmdet': 'mmdet', 'mmengine': 'mmengine', 'mmcv': 'mmcv', 'mmcv-lite': 'mmcv'}
FORK = {'onedl-mmdetection': 'mmdet', 'onedl-mmengine': 'mmengine', 'onedl-mmcv': 'mmcv'}
INSTALL = 'pip install -e ".[openmmlab,lite]" in a checkout of tinysaver-det'


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _problem(module):
    """Why a module can't be imported, in a line, or None."""
    try:
        importlib.import_module(module)
    except Exception as e:
        return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'
    return None


def diagnose():
    """Look at the environment.

    Returns:
        tuple[dict, list[str]]: What was found, by name; and what is wrong, a sentence each.
    """
    found, wrong = {'Python': platform.python_version()}, []
    upstream = {p: v for p in UPSTREAM if (v := _version(p))}
    fork = {p: v for p in FORK if (v := _version(p))}
    stacks = [name for name, s in (('upstream (openmmlab)', upstream), ('fork (onedl)', fork)) if s]
    found['stack'] = ' and '.join(stacks) or 'none'
    found.update(upstream)
    found.update(fork)
    if upstream and fork:
        wrong.append(f'{", ".join(upstream)} and {", ".join(fork)} own the same import names and overwrite each '
                     f'other: keep one stack in an environment')
    if 'mmcv' in upstream and 'mmcv-lite' in upstream:
        wrong.append('mmcv and mmcv-lite are both installed and overwrite each other: pip uninstall mmcv-lite, then '
                     'reinstall mmcv')
    for package in ('torch', 'torchvision', 'numpy', 'pycocotools'):
        problem = _problem(package)
        found[package] = _version(package) or 'missing'
        if problem:
            wrong.append(f'{package} does not import ({problem}): install it' + (
                ', as the pair that belongs together' if package in ('torch', 'torchvision') else ''))
    for module in ('mmengine', 'mmcv'):
        problem = _problem(module)
        if problem:
            wrong.append(f'{module} does not import ({problem}): {INSTALL}')
    if importlib.util.find_spec('mmcv') and not any(w.startswith('mmcv does') for w in wrong):
        found["mmcv's operators"] = operators = status()
        if operators.startswith('missing'):
            wrong.append(operators[len('missing: '):])
    problem = _problem('mmdet.apis')
    if problem:
        wrong.append(f'mmdet does not import ({problem}): {INSTALL}')
    if importlib.util.find_spec('pkg_resources') is None:
        wrong.append("pkg_resources is missing, without which mmengine cannot find 'mmdet::' configs: "
                     'pip install "setuptools<82"')
    if not any(w.startswith('torch does') for w in wrong) and _version('torch'):
        import torch

        found['GPU'] = (', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
                        if torch.cuda.is_available() else 'none, running on the CPU')
    return found, wrong


def main():
    found, wrong = diagnose()
    width = max(map(len, found))
    for name, value in found.items():
        print(f'{name:<{width}}  {value}')
    print()
    for sentence in wrong:
        print(f'wrong: {sentence}')
    if not wrong:
        print('nothing is wrong')
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
