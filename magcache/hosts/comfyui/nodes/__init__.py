"""The nodes, one file each. Saved workflows depend on their ids and on the order of their inputs.

Two are for packs that bring their own samplers; they import nothing from those packs.
"""

from .benchmark import MagCacheBenchmark
from .calibration import MagCacheCalibration
from .compare import MagCacheCompare
from .compile import CompileModel
from .emoji import MagCacheEmojiModel
from .framepackwrapper import MagCacheFramePackWrapper
from .magcache import MagCache
from .report import MagCacheReport
from .target_speed import MagCacheTargetSpeed
from .wanvideowrapper import MagCacheWanVideoWrapper

NODE_DISPLAY_NAME_MAPPINGS = {
    "MagCache": "MagCache (published rule)",
    "CompileModel": "Compile Model",
    "MagCacheCalibration": "MagCache Calibration",
    "MagCacheTargetSpeed": "MagCache",
    "MagCacheReport": "MagCache Report",
    "MagCacheCompare": "MagCache Compare",
    "MagCacheBenchmark": "MagCache Benchmark",
    "MagCacheEmojiModel": "Emoji Model (MagCache demo)",
    "MagCacheWanVideoWrapper": "MagCache for WanVideoWrapper",
    "MagCacheFramePackWrapper": "MagCache for FramePackWrapper",
}
NODE_CLASS_MAPPINGS: dict[str, type] = {
    "MagCache": MagCache,
    "CompileModel": CompileModel,
    "MagCacheCalibration": MagCacheCalibration,
    "MagCacheTargetSpeed": MagCacheTargetSpeed,
    "MagCacheReport": MagCacheReport,
    "MagCacheCompare": MagCacheCompare,
    "MagCacheBenchmark": MagCacheBenchmark,
    "MagCacheEmojiModel": MagCacheEmojiModel,
    "MagCacheWanVideoWrapper": MagCacheWanVideoWrapper,
    "MagCacheFramePackWrapper": MagCacheFramePackWrapper,
}
