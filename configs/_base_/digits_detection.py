# Scenes of handwritten digits (tinysaver_det/datasets/digits.py), made on first use in the user's cache folder.
os = __import__('os')  # mmengine takes a config with an import statement for one of its new style

cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
data_root = os.path.join(cache, 'tinysaver_det', 'digits') + os.sep

test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DigitScenes',
        data_root=data_root,
        ann_file='test/annotations.json',
        data_prefix=dict(img='test/images/'),
        test_mode=True))
test_evaluator = [dict(type='CocoMetric', ann_file=data_root + 'test/annotations.json', metric='bbox')]
test_cfg = dict(type='TestLoop')

# Choices are made on the calibration split; the test split is for the figures that are reported.
val_dataloader = dict(
    test_dataloader,
    dataset=dict(
        test_dataloader['dataset'],
        ann_file='calibration/annotations.json',
        data_prefix=dict(img='calibration/images/')))
val_evaluator = [dict(type='CocoMetric', ann_file=data_root + 'calibration/annotations.json', metric='bbox')]
val_cfg = dict(type='ValLoop')
