"""A training of seconds, for the tests of what has to do with training."""

from mmengine.config import Config

from ..conftest import CLASSES, tiny_config


def training_config(photos, work_dir, epochs=2, hooks=(), optimizer=None, **more):
    """A whole config that trains a very small YOLOX on the generated photos in float32, and validates at the end."""
    cfg = tiny_config(32)
    dataset = dict(type='CocoDataset', metainfo=dict(classes=CLASSES), ann_file=str(photos.ann),
                   data_prefix=dict(img=f'{photos.folder}/'), filter_cfg=None)
    pipeline = cfg.pop('test_dataloader')['dataset']['pipeline']
    cfg['model']['test_cfg']['score_thr'] = 0  # weights of so short a training find nothing that is sure
    cfg['model']['train_cfg'] = dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5))
    cfg.update(
        custom_imports=dict(imports=['tinysaver_det.models'], allow_failed_imports=False),
        train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
                              dataset=dict(dataset, pipeline=pipeline)),
        val_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                            dataset=dict(dataset, test_mode=True, pipeline=pipeline)),
        val_evaluator=[dict(type='CocoMetric', ann_file=str(photos.ann), metric='bbox')],
        val_cfg=dict(type='ValLoop'),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs),
        optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer or dict(type='AdamW', lr=1e-2, weight_decay=0.02),
                           paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0), clip_grad=dict(max_norm=20)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=4)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook')),
        custom_hooks=list(hooks), randomness=dict(seed=0), log_level='ERROR', work_dir=str(work_dir),
        visualizer=dict(type='Visualizer', name=str(work_dir)), experiment_name=str(work_dir).replace('/', '_'))
    cfg.update(more)
    return Config(cfg)
