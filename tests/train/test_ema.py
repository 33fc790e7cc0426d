import pytest
import torch

from equiv.train.ema import MovingAverage


def model(value=0.0):
    linear = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        linear.weight.fill_(value)
    return linear


def test_the_average_by_hand():
    linear = model(0.0)
    average = MovingAverage(dict(linear.named_parameters()), 0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]):
        with torch.no_grad():
            linear.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.average["weight"].item() == pytest.approx(expected, rel=1e-14)
    assert min(0.5, (1 + 8) / (10 + 8)) == 0.5  # the last steps ran at the full decay


def test_no_decay_follows_the_weights_exactly():
    linear = model(0.1)
    average = MovingAverage(dict(linear.named_parameters()), 0.0)
    with torch.no_grad():
        linear.weight.fill_(1 / 3)
    average.update()
    assert torch.equal(average.average["weight"], linear.weight)


def test_the_models_own_weights_come_back_bit_for_bit():
    linear = model(1 / 3)
    average = MovingAverage(dict(linear.named_parameters()), 0.9)
    average.average["weight"].fill_(7.0)
    own = linear.weight.detach().clone()
    with average.applied():
        assert linear.weight.item() == 7.0
    assert torch.equal(linear.weight, own)


def test_the_models_own_weights_come_back_after_an_error():
    linear = model(1 / 3)
    average = MovingAverage(dict(linear.named_parameters()), 0.9)
    average.average["weight"].fill_(7.0)
    with pytest.raises(ZeroDivisionError), average.applied():
        _ = 1 // 0
    assert linear.weight.item() == 1 / 3


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(ValueError, match="below 1"):
        MovingAverage(dict(model().named_parameters()), 1.0)
