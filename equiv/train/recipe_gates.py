"""Recipe keys of sparse gates on paths, the same for every model that has them."""

from typing import Annotated, Literal

from pydantic import Field

Budget = Annotated[
    Literal["paths", "flops"],
    Field(description="what `sparsity` is a share of: paths, or multiply-adds"),
]
RandomUntil = Annotated[
    Literal["auto"] | int,
    Field(description="optimizer step at which the gates stop to be random; auto: 2 % of all"),
]
FixedFrom = Annotated[
    Literal["auto"] | int,
    Field(description="optimizer step from which the gates are fixed; auto: 5 % of all"),
]
GateSeed = Annotated[int, Field(ge=0, description="seed of the random phase of the gates")]
