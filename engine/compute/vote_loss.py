"""How well predicted concentrations explain volunteer votes: one Dirichlet-multinomial per question, summed.

Walmsley et al. 2022a (MNRAS 509, 3966): volunteers' answers to a question are draws from a multinomial whose
probabilities are themselves drawn from a Dirichlet distribution, the concentrations of which the network predicts.
"""

from collections.abc import Sequence

import torch

LOWEST, RANGE = 1.0, 100.0


def concentrations(outputs: torch.Tensor) -> torch.Tensor:
    """Turn a head's raw outputs into concentrations in [1, 101], as the paper does: 1 + 100 sigmoid."""
    return LOWEST + RANGE * torch.sigmoid(outputs)


def vote_loss(concentrations: torch.Tensor, votes: torch.Tensor, questions: Sequence[slice]) -> torch.Tensor:
    """Negative log-likelihood of votes, one per galaxy and question.

    Parameters
    ----------
    concentrations : (n, answers) float tensor
        Positive.
    votes : (n, answers) tensor
        Counts, not negative.
    questions : sequence of slice
        Columns of each question (`schemas.tree.Tree.slices`).

    Returns
    -------
    (n, questions) float tensor
        In nats, with the multinomial coefficient, in the type of the concentrations; computed in float64, because the
        terms cancel. A question without votes gives exactly 0, and no gradient.
    """
    alpha, counts = concentrations.double(), votes.double()
    losses = []
    for columns in questions:
        a, k = alpha[:, columns], counts[:, columns]
        total_a, total_k = a.sum(dim=1), k.sum(dim=1)
        answers = torch.lgamma(a + k) - torch.lgamma(a) - torch.lgamma(k + 1)
        whole = torch.lgamma(total_a + total_k) - torch.lgamma(total_a) - torch.lgamma(total_k + 1)
        losses.append(torch.where(total_k > 0, whole - answers.sum(dim=1), torch.zeros_like(whole)))
    return torch.stack(losses, dim=1).to(concentrations.dtype)


def expected_fractions(concentrations: torch.Tensor, questions: Sequence[slice]) -> torch.Tensor:
    """Mean of each answer's predicted vote fraction, (n, answers); those of a question add up to 1."""
    parts = [concentrations[:, columns] for columns in questions]
    return torch.cat([part / part.sum(dim=1, keepdim=True) for part in parts], dim=1)
