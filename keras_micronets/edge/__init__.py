from .combine import combine
from .member import Member

__all__ = ["Member", "combine"]
