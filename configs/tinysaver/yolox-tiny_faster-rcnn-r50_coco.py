_base_ = ['../_base_/coco_detection.py', '../_base_/tinysaver.py']

saver = dict(
    config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    checkpoint=('https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_tiny_8x8_300e_coco/'
                'yolox_tiny_8x8_300e_coco_20211124_171234-b4047906.pth'))
base = dict(
    config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    checkpoint=('https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/'
                'faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth'))

# The threshold is not calibrated: choose it for the share of images to hand over, or the loss, that you want.
model = dict(saver=saver, base=base, threshold=0.1)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', **saver)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = test_dataloader
