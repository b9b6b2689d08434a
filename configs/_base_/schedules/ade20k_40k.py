"""40,000 steps on ADE20K with AdamW and a polynomial fall, for Semantic FPN."""

_base_ = "mmseg::_base_/schedules/schedule_40k.py"

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False)]
