# What every cascade has in common: the detector, its hooks and the runtime.
_base_ = ['runtime.py']

model = dict(
    type='TinySaverDetector',
    confidence=dict(type='BoxEntropy'),
    backbone=dict())  # empty: mmdet.apis.init_detector looks for it in every config

custom_hooks = [dict(type='TargetClassesHook'), dict(type='SaverSummaryHook')]
