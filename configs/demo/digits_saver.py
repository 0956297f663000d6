# The saver of the demo: like YOLOX-Nano, three quarters as wide, at 96 pixels.
_base_ = ['../_base_/digits_training.py']

size = 96
model = dict(
    type='YOLOX',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3, pad_size_divisor=32),
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.1875, use_depthwise=True),
    neck=dict(type='YOLOXPAFPN', in_channels=[48, 96, 192], out_channels=48, num_csp_blocks=1, use_depthwise=True),
    bbox_head=dict(type='YOLOXHead', num_classes=10, in_channels=48, feat_channels=48, use_depthwise=True),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)))

train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='RandomAffine', max_rotate_degree=0.0, max_shear_degree=0.0, scaling_ratio_range=(0.8, 1.2),
         border_val=(210, 210, 210)),
    dict(type='Resize', scale=(size, size), keep_ratio=True, interpolation='area'),
    dict(type='PackDetInputs')]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=True, interpolation='area'),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))

epochs = 60
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=2e-5, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True)]
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=epochs // 3, priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0005, update_buffers=True, priority=49)]
