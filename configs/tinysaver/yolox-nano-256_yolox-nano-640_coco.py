_base_ = ['../_base_/coco_detection.py', '../_base_/tinysaver.py']

# One detector at two resolutions: no second set of weights to train. mmdet's zoo has no checkpoint of YOLOX-Nano;
# name yours with --cfg-options model.saver.checkpoint=FILE model.base.checkpoint=FILE.
config = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
scale = 'test_dataloader.dataset.pipeline.1.scale'
saver = dict(config=config, cfg_options={scale: (256, 256)}, checkpoint=None)
base = dict(config=config, cfg_options={scale: (640, 640)}, checkpoint=None)

model = dict(saver=saver, base=base, threshold=0.15)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', **saver)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = test_dataloader
