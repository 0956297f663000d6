# Goes on with the saver, on scenes that are mostly what it is to answer itself.
_base_ = ['digits_saver.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    ann_file='train-easy/annotations.json', data_prefix=dict(img='train-easy/images/'))))
optim_wrapper = dict(optimizer=dict(lr=1e-3))

epochs = 20
train_cfg = dict(max_epochs=epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True)]
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=epochs, priority=48),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0005, update_buffers=True, priority=49)]
load_from = 'work_dirs/demo/saver/digits_saver/epoch_60.pth'  # where tools/train_demo.py has it
