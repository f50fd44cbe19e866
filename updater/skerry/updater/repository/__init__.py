"""The publish side of trust: what operators sign offline, and what the server signs online."""

from skerry.updater.repository.director import DirectorLimits, DirectorRepository
from skerry.updater.repository.founding import Holders, OfflineLimits
from skerry.updater.repository.image import ImageLimits, ImageRepository
from skerry.updater.repository.keys import OnlineKeys, OnlinePublic
from skerry.updater.repository.media import Medium, collect_media, write_media
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.releases import Release
from skerry.updater.repository.store import FolderMetadata, MetadataStore

__all__ = [
    "DirectorLimits",
    "DirectorRepository",
    "FolderMetadata",
    "Holders",
    "ImageLimits",
    "ImageRepository",
    "Medium",
    "MetadataStore",
    "OfflineLimits",
    "OfflineRepository",
    "OnlineKeys",
    "OnlinePublic",
    "Release",
    "collect_media",
    "write_media",
]
