"""What a device trusts: only what the right keys signed, for this device, and never going back."""

from skerry.updater.trust.assignment import Assignment, check_counter
from skerry.updater.trust.client import RepositoryClient, TrustLimits
from skerry.updater.trust.device import TrustedClient
from skerry.updater.trust.expiry import ExpiryPolicy
from skerry.updater.trust.media import MEDIA_URL, FolderFetcher
from skerry.updater.trust.rules import Refusal, Rule

__all__ = [
    "MEDIA_URL",
    "Assignment",
    "ExpiryPolicy",
    "FolderFetcher",
    "Refusal",
    "RepositoryClient",
    "Rule",
    "TrustLimits",
    "TrustedClient",
    "check_counter",
]
