"""As in1k_300e: 300 epochs, 5 of them warm-up, rates 1e-6 to 1e-5, clipped at 1; 6 devices with 128 images each."""

_base_ = "in1k_300e.py"

optim_wrapper = dict(optimizer=dict(lr=7.5e-4), clip_grad=dict(max_norm=1.0))  # 5e-4 * 768 / 512
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0 / 750, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=768)
