"""12 epochs of COCO with AdamW; norms and position tables are not decayed."""

_base_ = "mmdet::_base_/schedules/schedule_1x.py"

undecayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(norm=undecayed, rpb=undecayed, pos_embed=undecayed)),
)
