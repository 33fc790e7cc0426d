"""Models as compiled code: one graph for energies, forces and stress of structures of any size.

A model that keeps integers and arithmetic apart (:class:`equiv.models.block_model.BlockModel`) is
recorded with symbols for all sizes, derivatives included, and turned into machine code. The code is
kept between runs, and its first use in every run is compared with the model in float64.
"""
