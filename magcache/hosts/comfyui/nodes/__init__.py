"""The nodes, a file each. Ids and the order of inputs are those that existing workflows hold."""

from . import bridges
from .calibration import MagCacheCalibration
from .compare import MagCacheCompare
from .compile import CompileModel
from .emoji import MagCacheEmojiModel
from .magcache import MagCache
from .report import MagCacheReport
from .target_speed import MagCacheTargetSpeed

NODE_CLASS_MAPPINGS = {
    "MagCache": MagCache,
    "CompileModel": CompileModel,
    "MagCacheCalibration": MagCacheCalibration,
    "MagCacheTargetSpeed": MagCacheTargetSpeed,
    "MagCacheReport": MagCacheReport,
    "MagCacheCompare": MagCacheCompare,
    "MagCacheEmojiModel": MagCacheEmojiModel,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MagCache": "MagCache",
    "CompileModel": "Compile Model",
    "MagCacheCalibration": "MagCache Calibration",
    "MagCacheTargetSpeed": "MagCache (Target Speed)",
    "MagCacheReport": "MagCache Report",
    "MagCacheCompare": "MagCache Compare",
    "MagCacheEmojiModel": "Emoji Model (MagCache demo)",
}
NODE_CLASS_MAPPINGS.update({name: node for name, (node, _) in bridges.NODES.items()})
NODE_DISPLAY_NAME_MAPPINGS.update({name: title for name, (_, title) in bridges.NODES.items()})
