"""The reference: fastai's own MixUp and CutMix with their draws recorded, and a fastai Manifold Mixup. All NCHW."""
