"""Multi-label metrics as pure functions of scores and targets, in the protocols of the zero-shot literature.

Every function takes ``scores`` [N, C] (float) and ``targets`` [N, C] (1 positive, 0 negative, -1 unknown), one row an
image and one column a label. Single measures are ratios between 0 and 1; reports are the percentages that papers print.
Unknown labels count as negative, except in ``mAP_verified``.

Two conventions change the numbers of one and the same model, and are always named:

* images: ``positive-only`` counts only the images with at least one relevant positive label (the released code,
  DualCoOp, ML-Decoder); ``all-images`` counts every image (LESA, BiAM, Gen-MLZSL).
* mAP: ``official`` gives a label without any positive an average precision of 0 and breaks ties by position (the
  released code); ``skip`` leaves such labels out and treats equal scores as one threshold, as scikit-learn does.
  Where labels are unknown, ``mAP_verified`` is ``skip`` over the verified ones (LESA's and BiAM's Open Images).
"""

from src.metrics.accumulator import RankingAccumulator
from src.metrics.average_precision import mean_average_precision
from src.metrics.inputs import select_images
from src.metrics.precision_recall import PrecisionRecall, best_possible_f1_at_k, f1_at_k, f1_of_choice
from src.metrics.table import format_report, summary
from src.metrics.zero_shot import LabelBlocks, rank_settings, ranking_report, zero_shot_report
from src.options import DEFAULT_PROTOCOL, Protocol

__all__ = [
    "DEFAULT_PROTOCOL",
    "LabelBlocks",
    "PrecisionRecall",
    "Protocol",
    "RankingAccumulator",
    "best_possible_f1_at_k",
    "f1_at_k",
    "f1_of_choice",
    "format_report",
    "mean_average_precision",
    "rank_settings",
    "ranking_report",
    "select_images",
    "summary",
    "zero_shot_report",
]
