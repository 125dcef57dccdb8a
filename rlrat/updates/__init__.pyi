from .learner import Learner as Learner
from .optim import Adam as Adam
from .optim import SeedGuard as SeedGuard
from .optim import cosine as cosine
from .optim import flatten as flatten
from .optim import polyak_ as polyak_
from .random import Stream as Stream
from .random import UpdateBlocks as UpdateBlocks
