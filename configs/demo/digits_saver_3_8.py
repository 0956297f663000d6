# The saver for two of the ten digits, to compare one that was distilled for them with: see README.md beside this file.
_base_ = ['digits_saver.py']

classes = dict(classes=('3', '8'))
model = dict(bbox_head=dict(num_classes=2))
train_dataloader = dict(dataset=dict(dataset=dict(metainfo=classes)))
val_dataloader = dict(dataset=dict(metainfo=classes))
test_dataloader = dict(dataset=dict(metainfo=classes))
