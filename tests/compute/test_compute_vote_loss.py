import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import beta, betabinom, dirichlet_multinomial

from engine.compute.vote_loss import concentrations, expected_fractions, vote_loss
from schemas.tree import load_tree

TREE = load_tree("gz_decals")


def test_a_question_of_two_answers_is_a_beta_binomial() -> None:
    alpha = torch.tensor([[3.0, 7.5]], dtype=torch.float64)
    votes = torch.tensor([[12, 28]])
    (loss,) = vote_loss(alpha, votes, [slice(0, 2)])[0]
    assert loss.item() == pytest.approx(-betabinom.logpmf(12, 40, 3.0, 7.5), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), largest=st.sampled_from([1, 40, 5000]))
def test_every_question_is_scipys_dirichlet_multinomial_even_from_float32(seed: int, largest: int) -> None:
    random = np.random.default_rng(seed)
    alpha = random.uniform(1, 101, (4, 34)).astype(np.float32)
    votes = random.integers(0, largest + 1, (4, 34))
    found = vote_loss(torch.tensor(alpha), torch.tensor(votes), TREE.slices).numpy()
    for number, columns in enumerate(TREE.slices):
        k = votes[:, columns]
        expected = -dirichlet_multinomial.logpmf(k, alpha[:, columns].astype(float), k.sum(axis=1))
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-6, atol=1e-6)


def test_a_question_without_votes_counts_exactly_nothing_and_pulls_at_nothing() -> None:
    alpha = torch.full((2, 34), 50.0, requires_grad=True)
    votes = torch.zeros(2, 34)
    votes[:, TREE.slices[0]] = torch.tensor([10.0, 20.0, 3.0])
    loss = vote_loss(alpha, votes, TREE.slices)
    assert (loss[:, 1:] == 0).all()
    loss.sum().backward()
    assert alpha.grad is not None
    assert (alpha.grad[:, 3:] == 0).all()
    assert (alpha.grad[:, :3] != 0).all()


def test_gradients_are_right() -> None:
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 34, generator=random, dtype=torch.float64, requires_grad=True)
    votes = torch.randint(0, 2000, (3, 34), generator=random)
    assert torch.autograd.gradcheck(lambda x: vote_loss(concentrations(x), votes, TREE.slices), (outputs,))


@pytest.mark.parametrize("outputs", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_extreme_outputs_give_finite_losses_and_gradients(outputs: float) -> None:
    raw = torch.full((1, 34), outputs, requires_grad=True)
    loss = vote_loss(concentrations(raw), torch.full((1, 34), 3000), TREE.slices).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_concentrations_are_those_of_the_paper() -> None:
    found = concentrations(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 51.0, 101.0]))


def test_the_likeliest_concentrations_have_the_fractions_of_the_votes() -> None:
    raw = torch.zeros(1, 3, requires_grad=True, dtype=torch.float64)
    votes = torch.tensor([[40, 10, 50]])
    optimiser = torch.optim.Adam([raw], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        vote_loss(concentrations(raw), votes, [slice(0, 3)]).sum().backward()
        optimiser.step()
    fractions = expected_fractions(concentrations(raw), [slice(0, 3)]).detach().numpy()
    np.testing.assert_allclose(fractions, [[0.4, 0.1, 0.5]], atol=0.02)


def test_expected_fractions_are_the_means_of_the_marginals_and_add_up_to_one() -> None:
    alpha = torch.rand(5, 34, dtype=torch.float64) * 100 + 1
    fractions = expected_fractions(alpha, TREE.slices)
    for columns in TREE.slices:
        torch.testing.assert_close(fractions[:, columns].sum(dim=1), torch.ones(5, dtype=torch.float64))
    first = alpha[0, TREE.slices[0]].numpy()
    assert fractions[0, 0].item() == pytest.approx(beta(first[0], first[1:].sum()).mean())


def test_the_coefficient_makes_probabilities_of_all_outcomes_add_up_to_one() -> None:
    outcomes = torch.tensor([[i, j, 6 - i - j] for i in range(7) for j in range(7 - i)])
    alpha = torch.tensor([[2.0, 1.5, 4.0]], dtype=torch.float64).expand(len(outcomes), 3)
    assert torch.exp(-vote_loss(alpha, outcomes, [slice(0, 3)])).sum().item() == pytest.approx(1.0)
    assert gammaln(7) == pytest.approx(torch.lgamma(torch.tensor(7.0, dtype=torch.float64)).item())
