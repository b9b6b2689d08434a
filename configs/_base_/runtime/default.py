"""Loops, hooks and log that every recipe shares."""

val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="TopKAccuracy", topk=(1, 5))
test_evaluator = [dict(type="TopKAccuracy", topk=(1, 5)), dict(type="ConfusionMatrix")]

default_hooks = dict(
    runtime_info=None,  # reads every loss back from the device; RunLog keeps what it would
    timer=None,
    sampler_seed=None,  # EpochLoop sets the epoch
    logger=dict(type="RunLog", interval=50),
    checkpoint=dict(type="CheckpointWriter", interval=1, keep=2, best="top1"),
    progress=dict(type="ProgressBar"),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
