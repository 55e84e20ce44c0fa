"""Knowledge distillation: losses as plain functions, the frozen teacher, feature taps, and the setting that papers share.

The survey's taxonomy, and what serves each type here (nothing is imported by this package itself):

====  ==========================  =========================================  ==============================================
code  type                        what student and teacher have in common    served by
====  ==========================  =========================================  ==============================================
RB    response                    class probabilities at T = 1               `response.kd_loss(..., temperature=1)`,
                                                                             `response.soft_cross_entropy`
SRB   soft response               class probabilities at temperature T       `response.kd_loss`, `response.soft_cross_entropy`,
                                                                             `response.decoupled_kd_loss`
FB    feature                     embeddings or feature maps                 `feature.cosine_distance`,
                                                                             `feature.squared_distance`,
                                                                             `feature.attention_transfer`,
                                                                             `feature.ConvRegressor` + `feature.hint_loss`,
                                                                             `feature.VID`, `contrastive.CRD`
R     relation                    relations among the samples of a batch     `relation.rkd_distance`, `relation.rkd_angle`,
                                                                             `relation.rkd_loss`,
                                                                             `relation.similarity_preserving`,
                                                                             `relation.probabilistic_knowledge_transfer`,
                                                                             `relation.correlation_congruence`,
                                                                             `relation.hard_dark_rank`
MS    multi-step                  features of a teacher that still learns    any FB function, with `teacher.Teacher.load` of the
                                                                             teacher's next checkpoint
RFB   reverse feature             features; the teacher is pulled first      any FB function with the roles exchanged: a frozen
                                                                             student in `teacher.Teacher`, then FB as usual
BEA   ensemble                    averaged answers of several teachers       `response.ensemble_probabilities` (closed set)
====  ==========================  =========================================  ==============================================

In every loss the teacher's side is detached. Each states its reduction: a mean over entries is smaller than a sum over the
entries of a sample by the number of those entries, which is what published weights belong to. Features of any layer of any
network come from `taps.FeatureTaps`.
"""
