"""Volunteer votes: drawing them around true answers, as people with their doubts would give them."""

from collections.abc import Mapping

import numpy as np

from schemas.tree import Tree


def draw_votes(
    truth: Mapping[str, np.ndarray], tree: Tree, n_volunteers: float, agreement: float, random: np.random.Generator
) -> np.ndarray:
    """Draw votes for every question from a Dirichlet-multinomial around the true answers.

    Parameters
    ----------
    truth : mapping of vote column to (n,) float array
        Probability of each answer, given that the question is asked; those of one question add up to 1.
    tree : Tree
    n_volunteers : float
        Mean number of volunteers per galaxy; each galaxy's is Poisson, at least 1.
    agreement : float
        Sum of the Dirichlet's concentrations: the larger, the closer fractions are to the truth.
    random : np.random.Generator

    Returns
    -------
    (n, len(tree.columns)) int32 array
        A question is asked of those volunteers whose answers led to it, so that later questions have fewer votes.
    """
    n = len(truth[tree.columns[0]])
    asked_first = np.maximum(random.poisson(n_volunteers, n), 1)
    votes = np.zeros((n, len(tree.columns)), np.int32)
    place = {column: number for number, column in enumerate(tree.columns)}
    for question, columns in zip(tree.questions, tree.slices, strict=True):
        leading = [place[answer] for answer in question.after]
        asked = votes[:, leading].sum(axis=1) if leading else asked_first
        expected = np.stack([truth[column] for column in question.columns], axis=1)
        drawn = random.standard_gamma(agreement * expected + 1e-3)
        votes[:, columns] = random.multinomial(asked, drawn / drawn.sum(axis=1, keepdims=True))
    return votes
