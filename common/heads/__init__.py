"""Classification heads: raw embeddings [B, D] and labels [B] to logits [B, C] with the margin; the loss is outside."""

from common.heads.adaptive import AdaCos, CurricularFace
from common.heads.cosine import CosineHead
from common.heads.elastic import ElasticArcFace, ElasticCosFace
from common.heads.linear import Softmax
from common.heads.margins import ArcFace, CosFace, NormalizedSoftmax
from common.heads.partial_fc import PartialFC
from common.heads.sharded_partial_fc import ShardedPartialFC
from common.heads.sphereface import SphereFace

__all__ = [
    "AdaCos",
    "ArcFace",
    "CosFace",
    "CosineHead",
    "CurricularFace",
    "ElasticArcFace",
    "ElasticCosFace",
    "NormalizedSoftmax",
    "PartialFC",
    "ShardedPartialFC",
    "Softmax",
    "SphereFace",
]
