"""Generated faces of persons who do not exist: known identities, known groups and a known bias (see
`GeneratedFaces`)."""

from datasets.generated.faces import GeneratedFaces
from datasets.generated.identity import GROUPS, Group
from datasets.generated.nuisance import DOMAINS, Nuisance

__all__ = ["DOMAINS", "GROUPS", "GeneratedFaces", "Group", "Nuisance"]
