_base_ = ['../_base_/coco_detection.py', '../_base_/tinysaver.py']

# torchvision resizes and normalises by itself, so that its test pipeline only loads and packs.
saver = dict(
    model=dict(type='TorchvisionDetector', builder='ssdlite320_mobilenet_v3_large'),
    test_pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'))],
    checkpoint='https://download.pytorch.org/models/ssdlite320_mobilenet_v3_large_coco-a79551df.pth')
base = dict(
    config='mmdet::rtmdet/rtmdet_x_8xb32-300e_coco.py',
    checkpoint=('https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_x_8xb32-300e_coco/'
                'rtmdet_x_8xb32-300e_coco_20220715_230555-cc79b9ae.pth'))

# The threshold is not calibrated: choose it for the share of images to hand over, or the loss, that you want.
model = dict(saver=saver, base=base, threshold=0.1)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', **saver)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = test_dataloader
