"""A condition on catalogue columns, as a person writes it: parsed by Python's grammar, of which little is allowed."""

import ast
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError
from schemas.validation import did_you_mean

_Operators = dict[type[Any], Callable[[Any, Any], Any]]

_COMPARISONS: _Operators = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_ARITHMETIC: _Operators = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a.cast(pa.float64()) / b.cast(pa.float64()),
}
_NOT_COMPARABLE = (pa.ArrowException, OverflowError, TypeError, ValueError, RecursionError)
"""What Arrow makes of constants that it has no type for, of comparisons that it does not know, and of deep nesting."""
_GRAMMAR = "comparisons, and / or / not, in [...], is None, + - * /, numbers, text in quotes and column names"


class Predicate:
    """A condition that rows of a table meet or not.

    Parameters
    ----------
    text : str
        Such as ``magnitude < 18 and (bar > 0.5 or kind in ["spiral", "ring"])``.

    Raises
    ------
    ConfigError
        The text is no condition, or holds anything but comparisons of columns and constants.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"where: {text!r} is no condition: {error}") from error
        self.columns: tuple[str, ...] = tuple(
            dict.fromkeys(node.id for node in ast.walk(body) if isinstance(node, ast.Name))
        )
        """Names of the columns that it looks at, in the order of the text."""
        if not self.columns:
            raise ConfigError(f"where: {text!r}: expected a condition on columns, found none")
        try:
            self._expression = self._condition(body)
        except _NOT_COMPARABLE as error:
            raise ConfigError(f"where: {text!r} cannot be asked: {error}") from error

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """Tell which rows meet the condition; where a value is missing, that it needs, they do not.

        Raises
        ------
        ConfigError
            A column is not in the table, or holds what cannot be compared so.
        """
        self.check(table.column_names)
        picked = table.select(list(self.columns)).add_column(0, "__row", pa.array(range(len(table)), pa.int64()))
        picked = pa.table({name: _plain(picked[name]) for name in picked.column_names})
        try:
            rows = picked.filter(self._expression)["__row"]
        except _NOT_COMPARABLE as error:
            types = ", ".join(f"{name} is {table.schema.field(name).type}" for name in self.columns)
            raise ConfigError(f"where: {self.text!r} cannot be asked ({types}): {error}") from error
        return pc.is_in(picked["__row"], value_set=rows.combine_chunks()).combine_chunks()

    def check(self, names: Sequence[str]) -> None:
        """Check that all columns are there.

        Raises
        ------
        ConfigError
            One is not.
        """
        for column in self.columns:
            if column not in names:
                hint = did_you_mean(column, names)
                raise ConfigError(f"where: expected a column {column!r}, found {', '.join(names)}{hint}")

    def _condition(self, node: ast.expr) -> pc.Expression:
        if isinstance(node, ast.BoolOp):
            made = [self._condition(value) for value in node.values]
            whole = made[0]
            for more in made[1:]:
                whole = whole & more if isinstance(node.op, ast.And) else whole | more
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._condition(node.operand)
        if isinstance(node, ast.Name):
            return pc.field(node.id)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        raise self._refused(node)

    def _comparison(self, node: ast.Compare) -> pc.Expression:
        whole: pc.Expression | None = None
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            one = self._compared(left, operator, right)
            whole = one if whole is None else whole & one
            left = right
        return whole

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._refused(right)
            found = self._value(left).isin([self._constant(item) for item in right.elts])
            return found if isinstance(operator, ast.In) else ~found & self._value(left).is_valid()
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._refused(right)
            value = self._value(left)
            return value.is_null() if isinstance(operator, ast.Is) else value.is_valid()
        return _COMPARISONS[type(operator)](self._value(left), self._value(right))

    def _value(self, node: ast.expr) -> pc.Expression:
        if isinstance(node, ast.Name):
            return pc.field(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return _ARITHMETIC[type(node.op)](self._value(node.left), self._value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return pc.scalar(0) - self._value(node.operand)
        return pc.scalar(self._constant(node))

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool):
            return node.value
        raise self._refused(node)

    def _refused(self, node: ast.expr) -> ConfigError:
        return ConfigError(f"where: {ast.unparse(node)!r} is not allowed in {self.text!r}; expected {_GRAMMAR}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo dictionary encoding, which comparisons do not know, and let NaN be what it means: missing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), None, column)
    return column
