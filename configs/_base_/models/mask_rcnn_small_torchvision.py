"""Mask R-CNN with narrow heads and few proposals, on strides from 8, for images of 160 pixels on a CPU."""

model = dict(
    type="Detector",
    method="mask_rcnn",
    num_classes=10,
    model_args=dict(
        min_size=160,
        max_size=160,
        out_indices=(1, 2, 3),
        fpn_channels=64,
        box_channels=256,
        mask_channels=(64, 64),
        anchor_sizes=((32, 44), (44, 56), (56, 72), (72, 92)),
        rpn_pre_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_detections_per_img=30,
    ),
)
