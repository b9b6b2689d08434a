"""UPerNet with a narrow decoder, for images of 96 pixels on a CPU."""

model = dict(type="Segmenter", method="UPerNet", num_classes=11, dice=1.0, model_args=dict(decoder_channels=32))
