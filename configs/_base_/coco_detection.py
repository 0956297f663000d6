# COCO val2017, evaluated by mmdet's CocoMetric and, second, by SaverMetric.
# A config of a cascade adds test_dataloader.dataset.pipeline, which makes the saver's input.
data_root = 'data/coco/'
ann_file = 'annotations/instances_val2017.json'

test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file=ann_file,
        data_prefix=dict(img='val2017/'),
        test_mode=True))
test_evaluator = [
    dict(type='CocoMetric', ann_file=data_root + ann_file, metric='bbox'),
    dict(type='SaverMetric'),
]
test_cfg = dict(type='TestLoop')

# mmdet's tools, get_flops.py for one, look at the validation's data.
val_dataloader = test_dataloader
val_evaluator = test_evaluator
val_cfg = dict(type='ValLoop')
