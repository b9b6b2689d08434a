"""UPerNet with DiNAT_s-Large on ADE20K, 160k: 53.4 mIoU, 54.6 over several scales in the paper.

Starts from ImageNet-22k weights at 224x224, our choice.
"""

_base_ = "upernet_dinat_large_160k_ade20k_640.py"

model = dict(backbone=dict(model_name="dinat_s_large", init_cfg=dict(checkpoint="checkpoints/dinat_s_large_21k.pth")))
