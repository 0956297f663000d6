_base_ = ['../_base_/coco_detection.py', '../_base_/tinysaver.py']

# One detector at four resolutions, three of them for what is handed over: to the smallest at which the boxes that the
# saver is unsure of are large enough. mmdet's zoo has no checkpoint of YOLOX-Nano; name yours with --cfg-options
# model.saver.checkpoint=FILE model.base.checkpoint=FILE.
config = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
scale = 'test_dataloader.dataset.pipeline.1.scale'
saver = dict(config=config, cfg_options={scale: (256, 256)}, checkpoint=None)
base = dict(config=config, scales=[(320, 320), (416, 416), (640, 640)], checkpoint=None)

model = dict(saver=saver, base=base, threshold=0.15, routing=dict(type='SmallestScale', pixels=32))

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', **saver)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = test_dataloader
