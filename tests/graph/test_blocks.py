import torch

from equiv.graph.blocks import neighbor_blocks


def test_every_edge_stands_once_in_the_row_of_its_receiver():
    receivers = torch.tensor([0, 0, 0, 2, 4, 4])
    blocks = neighbor_blocks(receivers, 6)
    assert blocks.edge.tolist() == [
        [0, 1, 2, 6],
        [6, 6, 6, 6],
        [3, 6, 6, 6],
        [6, 6, 6, 6],
        [4, 5, 6, 6],
        [6, 6, 6, 6],
    ]
    assert blocks.mask.sum() == 6


def test_no_edges_give_rows_of_no_width():
    assert neighbor_blocks(torch.zeros(0, dtype=torch.long), 3).edge.shape == (3, 0)
    assert neighbor_blocks(torch.zeros(0, dtype=torch.long), 0).edge.shape == (0, 0)
