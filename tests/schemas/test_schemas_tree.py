from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.tree import Question, Tree, load_tree, tree_names


@pytest.mark.parametrize(("name", "questions", "answers"), [("gz_decals", 10, 34), ("gz2", 11, 37), ("euclid", 13, 45)])
def test_the_trees_have_as_many_questions_and_answers_as_published(name: str, questions: int, answers: int) -> None:
    tree = load_tree(name)
    assert (len(tree.questions), len(tree.columns)) == (questions, answers)
    assert name in tree_names()


def test_slices_cover_the_columns_in_order() -> None:
    tree = load_tree("gz_decals")
    assert [tree.columns[columns] for columns in tree.slices] == [question.columns for question in tree.questions]


def test_a_question_cannot_come_before_what_leads_to_it() -> None:
    first = Question(name="a", answers=("x", "y"), after=("b_x",))
    with pytest.raises(ValidationError, match="a: comes after b_x, which no earlier question has"):
        Tree(questions=(first, Question(name="b", answers=("x", "y"))))


def test_questions_and_answers_have_one_name_each() -> None:
    question = Question(name="a", answers=("x", "y"))
    with pytest.raises(ValidationError, match="questions of the same name: a"):
        Tree(questions=(question, question))
    with pytest.raises(ValidationError, match="a: the same answer twice"):
        Tree(questions=(Question(name="a", answers=("x", "x")),))


def test_some_questions_alone_are_asked_of_everything() -> None:
    tree = load_tree("gz_decals").only(["bar", "merging"])
    assert [question.name for question in tree.questions] == ["bar", "merging"]
    assert all(not question.after for question in tree.questions)


@pytest.mark.parametrize("names", [["bars"], []])
def test_unknown_questions_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="questions: expected some of smooth-or-featured, "):
        load_tree("gz_decals").only(names)


def test_a_tree_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("questions:\n  - {name: odd, answers: ['yes', 'no']}\n")
    assert load_tree(str(path)).columns == ("odd_yes", "odd_no")


@pytest.mark.parametrize(
    ("text", "message"), [("[", "not valid YAML"), ("questions: []", "questions"), ("a: 1", "questions")]
)
def test_what_is_no_tree_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_tree(str(path))


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"expected one of euclid, gz2, gz_decals or a \.yaml file, found 'gz3'"):
        load_tree("gz3")
    with pytest.raises(ConfigError, match="expected a file, found nothing"):
        load_tree("nowhere.yaml")
