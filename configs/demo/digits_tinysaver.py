# The demo: both stages were trained on scenes of handwritten digits, which are made on the first run.
_base_ = ['../_base_/digits_detection.py', '../_base_/tinysaver.py']

saver = dict(config='{{ fileDirname }}/digits_saver.py', checkpoint='tinysaver://digits_saver.pth')
base = dict(config='{{ fileDirname }}/digits_base.py', checkpoint='tinysaver://digits_base.pth')

# Chosen on the calibration split, which neither stage was trained on: see README.md beside this file.
model = dict(saver=saver, base=base, confidence=dict(type='BoxEntropy'), threshold=0.4856)

test_pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', **saver)]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
# Both stages alone are evaluated as well, as with --baselines.
test_evaluator = dict(_delete_=True, type='StagesEvaluator', metrics=[
    dict(type='CocoMetric', ann_file=_base_.data_root + 'test/annotations.json', metric='bbox'),
    dict(type='SaverMetric')])
