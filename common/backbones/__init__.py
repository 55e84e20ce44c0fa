"""Face-recognition backbones: images [B, 3, H, W] to raw embeddings [B, D]; constructors take plain values only."""

from common.backbones.iresnet import IResNet, IResNet18, IResNet34, IResNet50, IResNet100, IResNet200
from common.backbones.mobilefacenet import MobileFaceNet
from common.backbones.mobilefacenet_112x96 import MobileFaceNet112x96
from common.backbones.mobilefacenet_insightface import InsightMobileFaceNet
from common.backbones.pocketnet import PocketNet, PocketNetM, PocketNetS

__all__ = [
    "IResNet",
    "IResNet18",
    "IResNet34",
    "IResNet50",
    "IResNet100",
    "IResNet200",
    "InsightMobileFaceNet",
    "MobileFaceNet",
    "MobileFaceNet112x96",
    "PocketNet",
    "PocketNetM",
    "PocketNetS",
]
