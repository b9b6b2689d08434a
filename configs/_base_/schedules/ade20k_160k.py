"""160,000 steps on ADE20K with AdamW and a linear fall; norms and position tables are not decayed."""

_base_ = "mmseg::_base_/schedules/schedule_160k.py"

undecayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(norm=undecayed, rpb=undecayed, pos_embed=undecayed)),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
